"""One document on the dashboard: what is known of it, and a look into it without downloading it."""

import asyncio
from datetime import UTC, datetime

from aiohttp import web

from service import problems
from service.core import documents
from service.core.documents import Document
from service.dashboard.entrance import signed_in
from service.dashboard.pages import framed, render
from service.handlers.documents import document_of, get_content, object_of, redirect
from service.keys import CLIENT, PREVIEWS, STORAGE
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


@signed_in()
async def show_document(request: web.Request) -> web.Response:
    """Show what is known of a document, and the document in a frame when browsers can show it."""
    document = await document_of(request)
    return render(
        request,
        "document.html",
        document=document,
        is_framed=document.object_key is not None and (_is_pdf(document) or _is_sent(document)),
        is_sandboxed=not _is_pdf(document),
    )


download = signed_in()(get_content)
"""Redirects to a fresh link, for who is signed in."""


@signed_in()
@framed
async def send_preview(request: web.Request) -> web.StreamResponse:
    """Send a document for its frame; PDFs come from the store's origin, where no page of ours is in reach."""
    document = await document_of(request)
    key = await object_of(request, document)
    if _is_pdf(document):
        await note_access(request, "document.preview", document.id)
        name, now = documents.file_name(document.name, key), datetime.now(UTC)
        return redirect(
            request.app[STORAGE].presign(key, filename=name, now=now, ttl_s=_LINK_TTL_S, is_shown=True)
        )
    if not _is_sent(document):
        raise ProblemError(problems.NOT_AVAILABLE, "there is no preview of the document")
    with request.app[PREVIEWS].taken(request[CLIENT].id):
        await note_access(request, "document.preview", document.id)
        return await _send(request, key, document.media_type or "")


async def _send(request: web.Request, key: str, media_type: str) -> web.StreamResponse:
    """Send it here, forbidden to run anything and to load anything from anywhere."""
    chunks = request.app[STORAGE].read(key)
    first = await anext(chunks, b"")  # a store that is away is a proper error as long as nothing was sent
    # Its letters are told of by a `charset` of its own, or by the document itself.
    response = web.StreamResponse(headers={**_HARMLESS, "Content-Type": media_type})
    # Who does not read keeps his place so long and no longer.
    async with asyncio.timeout(_TIMEOUT_S):
        await response.prepare(request)
        await response.write(first)
        async for chunk in chunks:
            await response.write(chunk)
        await response.write_eof()
    return response


def _is_sent(document: Document) -> bool:
    return _media_type(document) in _SENT and (document.size_bytes or 0) <= _MOST_BYTES


def _is_pdf(document: Document) -> bool:
    return _media_type(document) == _PDF


def _media_type(document: Document) -> str:
    return (document.media_type or "").partition(";")[0].strip().lower()
