"""The data lake "API Processos": lists documents apart from their process, lends links to their bodies."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import orjson

from service.core import cnj
from service.core.errors import (
    BadContentError,
    LinkRefusedError,
    PortalError,
    PortalThrottledError,
    ProcessNotFoundError,
    RefusedError,
)
from service.core.portal_answers import checked
from service.core.portal_records import ProcessRecord, only_process, read_process
from service.core.settings import SourceSettings
from service.core.token_source import TokenSource
from service.core.upstream import CALLS, DocumentStream, Upstream, open_upstream

# How the answer names the link is not recorded.
_LINK_NAMES = ("url", "binarioUrl", "urlBinario", "binario", "link", "href")


class DataLake:
    """The data lake's API. Paths are built from number and uuid; only its temporary links are followed."""

    tells_changes = True

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def read_process(self, number: str, *, known_at: datetime | None = None) -> ProcessRecord | None:
        """Return what the data lake says of the process with these 20 digits.

        Args:
            known_at: its last change when its documents were last listed.

        Returns:
            None when it has not changed since.

        Raises:
            PortalError: of the kind that the answer stands for.
        """
        path = f"processos/{cnj.mask(number)}"
        # Before the list: what changes while that is read is a later change.
        changed_at = await self._read_change(path)
        if changed_at is not None and changed_at == known_at:
            return None
        with CALLS.of("read_process"):
            process = only_process(checked(await self._upstream.read(path)))
        with CALLS.of("read_documents"):
            record = read_process(process, number, listed=await self._read_list(path))
        return replace(record, changed_at=changed_at)

    async def _read_change(self, path: str) -> datetime | None:
        """Return when the process last changed; None when that is not to be learned, for whatever reason."""
        try:
            with CALLS.of("read_change"):
                return await self._upstream.read_last_modified(f"{path}/ultima-atualizacao")
        except PortalThrottledError:
            raise
        except PortalError:
            return None

    async def _read_list(self, path: str) -> object:
        try:
            body = checked(await self._upstream.read(f"{path}/documentos"))
            return orjson.loads(body) or {}  # nothing at all is no list
        except orjson.JSONDecodeError:
            raise BadContentError("the portal listed the documents in no JSON") from None
        except ProcessNotFoundError:
            # Feeds lag: the process is there, and no list would be an empty one.
            raise BadContentError("the portal has the process, and no list of its documents") from None

    @asynccontextmanager
    async def open_document(self, number: str, uuid: UUID) -> AsyncIterator[DocumentStream]:
        """Open the body of one document by a temporary link to it; see `Upstream.open_document`.

        Raises:
            DocumentNotReadyError: it is being prepared.
            PortalError: at opening or while the chunks are read.
        """
        path = f"processos/{cnj.mask(number)}/documentos/{uuid}"
        async with AsyncExitStack() as stack:
            yield await self._open(path, stack)

    async def _open(self, path: str, stack: AsyncExitStack) -> DocumentStream:
        link = await self._read_link(path)
        if link is None:
            return await stack.enter_async_context(self._upstream.open_document(f"{path}/binario"))
        try:
            return await stack.enter_async_context(self._upstream.open_link(link))
        except LinkRefusedError:
            # It may have run out on the way.
            another = await self._read_link(path)
        return await stack.enter_async_context(self._upstream.open_link(another or link))

    async def _read_link(self, path: str) -> str | None:
        """Return a temporary link to the document; None when there are no links here."""
        try:
            with CALLS.of("read_link"):
                return _link(await self._upstream.read(f"{path}/binario-url"))
        except RefusedError as error:
            if error.code == "unknown_route":
                return None
            raise

    async def read_text(self, number: str, uuid: UUID) -> str:
        """Return the text that the data lake has of a document; see `Upstream.read_text`."""
        return await self._upstream.read_text(f"processos/{cnj.mask(number)}/documentos/{uuid}/texto")


@asynccontextmanager
async def open_data_lake(source: SourceSettings, tokens: TokenSource) -> AsyncIterator[DataLake]:
    """Open the data lake's client of this process."""
    async with open_upstream(source, tokens) as upstream:
        yield DataLake(upstream)


def _link(body: bytes) -> str:
    """Read a link that may come as a JSON string, as a member of an object, or as plain text."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = body.decode("ascii", errors="replace")
    members = [said.get(name) for name in _LINK_NAMES] if isinstance(said, dict) else [said]
    for member in members:
        if isinstance(member, str) and member.strip().startswith(("https://", "http://")):
            return member.strip()
    checked(body)
    raise BadContentError("the portal gave no link to the document")
