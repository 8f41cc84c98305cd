"""Where documents come from: the portal or the data lake, each with its token, its limit and its breaker."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from redis.asyncio import Redis

from service.core.data_lake import open_data_lake
from service.core.db import Database
from service.core.portal import open_portal
from service.core.portal_limit import PortalLimit, open_portal_limit
from service.core.portal_records import ProcessRecord
from service.core.portal_shared import Shared
from service.core.settings import Settings, SourceName, SourceSettings
from service.core.token_source import TokenSource, open_token_source
from service.core.upstream import DocumentStream


class Adapter(Protocol):
    """What is asked of a source; numbers are 20 digits. Every call raises a `PortalError` of some kind."""

    @property
    def tells_changes(self) -> bool:
        """Whether it heeds `known_at`."""

    async def read_process(self, number: str, *, known_at: datetime | None = None) -> ProcessRecord | None:
        """Return what it says of the process; None when its last change is still the one at `known_at`."""

    def open_document(self, number: str, uuid: UUID) -> AbstractAsyncContextManager[DocumentStream]:
        """Open the body of one document, after a look at its beginning."""

    async def read_text(self, number: str, uuid: UUID) -> str:
        """Return the text that it has of a document."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source, and the limit within which it is asked."""

    adapter: Adapter
    limit: PortalLimit


class Sources:
    """The sources that the settings name, for each process the one of its court."""

    def __init__(self, sources: Mapping[SourceName, Source], settings: Settings) -> None:
        self._sources = sources
        self._settings = settings

    def of(self, number: str) -> Source:
        """Return the source of the process with these 20 digits."""
        return self._sources[self._settings.source_of(number)]

    async def look(self) -> Shared | None:
        """Return what all workers share of them now, taken together; None when Redis does not say."""
        looks = [await source.limit.look() for source in self._sources.values()]
        known = [look for look in looks if look is not None]
        if len(known) < len(looks):
            return None
        return Shared(
            limit=sum(look.limit for look in known),
            in_flight=sum(look.in_flight for look in known),
            shut_ms=max(look.shut_ms for look in known),
            paused_ms=max(look.paused_ms for look in known),
        )


@asynccontextmanager
async def open_sources(settings: Settings, db: Database, redis: Redis) -> AsyncIterator[Sources]:
    """Open what this process needs of each source that some process comes from."""
    async with AsyncExitStack() as stack:
        opened: dict[SourceName, Source] = {}
        for source in settings.sources:
            tokens = await stack.enter_async_context(open_token_source(source, db))
            opened[source.name] = Source(
                await stack.enter_async_context(open_adapter(source, tokens)),
                await stack.enter_async_context(open_portal_limit(redis, source)),
            )
        yield Sources(opened, settings)


def open_adapter(source: SourceSettings, tokens: TokenSource) -> AbstractAsyncContextManager[Adapter]:
    """Open the client of a source."""
    return open_data_lake(source, tokens) if source.name == "data_lake" else open_portal(source, tokens)
