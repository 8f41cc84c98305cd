"""One document on the dashboard: what is known of it, and a look into it without downloading it."""

import asyncio
import logging
from datetime import UTC, datetime

from aiohttp import web

from service import problems
from service.core import documents
from service.core.documents import Document
from service.core.errors import StorageUnavailableError
from service.dashboard.entrance import signed_in
from service.dashboard.pages import render
from service.handlers.documents import document_of, get_content
from service.keys import ARCHIVES, STORAGE
from service.noting import note_access
from service.problems import ProblemError

_PDF = "application/pdf"
# What browsers show by themselves and we send: it is somebody else's, and may run and load nothing.
_SENT = frozenset({"text/html", "text/plain", "image/png", "image/jpeg", "image/gif"})
_HARMLESS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'self'",
    "X-Frame-Options": "SAMEORIGIN",
    "Cache-Control": "private, no-store",
}
_MOST_BYTES = 10 * 1024 * 1024
_LINK_TTL_S = 300
_TIMEOUT_S = 60.0
_RETRY_AFTER_S = "5"

log = logging.getLogger(__name__)


@signed_in()
async def show_document(request: web.Request) -> web.Response:
    """Show what is known of a document, and the document in a frame when browsers can show it."""
    document = await document_of(request)
    frame = _frame(request, document)
    # What is not framed from the store is noted when it is sent.
    if frame and _media_type(document) == _PDF:
        await note_access(request, "document.preview", document.id)
    return render(
        request,
        "document.html",
        document=document,
        frame=frame,
        is_sandboxed=_media_type(document) != _PDF,
    )


download = signed_in()(get_content)
"""Redirects to a fresh link, for who is signed in."""


@signed_in()
async def send_preview(request: web.Request) -> web.StreamResponse:
    """Send a document for its frame, forbidden to run anything and to load anything from anywhere."""
    document = await document_of(request)
    if not _is_sent(document) or document.object_key is None:
        raise ProblemError(problems.NOT_AVAILABLE, "there is no preview of the document")
    if request.app[ARCHIVES].locked():
        raise ProblemError(problems.OVERLOADED, headers={"Retry-After": _RETRY_AFTER_S})
    # Its letters are told of by a `charset` of its own, or by the document itself.
    response = web.StreamResponse(headers={**_HARMLESS, "Content-Type": document.media_type or ""})
    await note_access(request, "document.preview", document.id)
    async with request.app[ARCHIVES]:
        chunks = request.app[STORAGE].read(document.object_key)
        first = await anext(chunks, b"")  # a store that is away is a proper error as long as nothing was sent
        try:
            # Who does not read keeps his place so long and no longer.
            async with asyncio.timeout(_TIMEOUT_S):
                await response.prepare(request)
                await response.write(first)
                async for chunk in chunks:
                    await response.write(chunk)
                await response.write_eof()
        except (StorageUnavailableError, OSError) as error:  # a TimeoutError is an OSError
            log.warning("a preview was cut short: %s", type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
    return response


def _frame(request: web.Request, document: Document) -> str | None:
    """Return what a frame shows; PDFs come from the store's origin, where no page of ours can be reached."""
    if document.object_key is None:
        return None
    if _media_type(document) == _PDF:
        return request.app[STORAGE].presign(
            document.object_key,
            filename=documents.file_name(document.name, document.object_key),
            now=datetime.now(UTC),
            ttl_s=_LINK_TTL_S,
            is_shown=True,
        )
    return f"/dashboard/documents/{document.id}/preview" if _is_sent(document) else None


def _is_sent(document: Document) -> bool:
    return _media_type(document) in _SENT and (document.size_bytes or 0) <= _MOST_BYTES


def _media_type(document: Document) -> str:
    return (document.media_type or "").partition(";")[0].strip().lower()
