"""The Portal de Serviços: a process with its list of documents in one answer, each document under a path."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from uuid import UUID

from service.core import cnj
from service.core.portal_answers import checked
from service.core.portal_records import ProcessRecord, only_process, read_process
from service.core.settings import SourceSettings
from service.core.token_source import TokenSource
from service.core.upstream import CALLS, DocumentStream, Upstream, open_upstream


class Portal:
    """The portal's API. Paths are built from number and uuid; its links are never followed."""

    tells_changes = False

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def read_process(self, number: str, *, known_at: datetime | None = None) -> ProcessRecord:  # noqa: ARG002
        """Return what the portal says of the process with these 20 digits; it knows no cheaper answer.

        Raises:
            PortalError: of the kind that the answer stands for.
        """
        with CALLS.of("read_process"):
            body = checked(await self._upstream.read(f"processos/{cnj.mask(number)}"))
            return read_process(only_process(body), number)

    def open_document(self, number: str, uuid: UUID) -> AbstractAsyncContextManager[DocumentStream]:
        """Open the body of one document; see `Upstream.open_document`."""
        return self._upstream.open_document(f"{_document(number, uuid)}/binario")

    async def read_text(self, number: str, uuid: UUID) -> str:
        """Return the text that the portal has of a document; see `Upstream.read_text`."""
        return await self._upstream.read_text(f"{_document(number, uuid)}/texto")


@asynccontextmanager
async def open_portal(source: SourceSettings, tokens: TokenSource) -> AsyncIterator[Portal]:
    """Open the portal's client of this process."""
    async with open_upstream(source, tokens) as upstream:
        yield Portal(upstream)


def _document(number: str, uuid: UUID) -> str:
    return f"processos/{cnj.mask(number)}/documentos/{uuid}"
