"""Documents: the bytes of one."""

import asyncio
import math
from datetime import UTC, datetime
from functools import partial

from aiohttp import web
from yarl import URL

from service import problems
from service.contract import Operation
from service.core import documents, losses
from service.core.documents import Document
from service.core.errors import PortalError, PortalPausedError, RefusedError, StorageUnavailableError
from service.core.storage import Storage
from service.handlers.jobs import path_uuid
from service.keys import CLIENT, DATABASE, SETTINGS, SOURCES, STORAGE, TEXTS
from service.noting import note_access
from service.problems import ProblemError
from service.request_schemas import NoQuery
from service.requests import read_query

_LOOK_TIMEOUT_S = 2.0
_TEXT_TIMEOUT_S = 20.0
_LONGEST_RETRY_AFTER_S = 60
_AGAIN = {"Retry-After": "5"}


@Operation(
    "documents",
    {302: None},
    problems=(problems.TOO_SECRET, problems.NOT_AVAILABLE, problems.GONE),
    tells=("Location",),
)
async def get_content(request: web.Request) -> web.Response:
    """Redirect to a fresh presigned URL of the document; 410 when its object is not there any more."""
    read_query(request, NoQuery)
    document = await document_of(request)
    key = await object_of(request, document)
    await note_access(request, "document.content", document.id)
    name = documents.file_name(document.name, key)
    return redirect(request.app[STORAGE].presign(key, filename=name, now=datetime.now(UTC)))


async def object_of(request: web.Request, document: Document) -> str:
    """Return the key of a document's object, which is there for all that S3 says.

    Raises:
        ProblemError: 409, it is not available; 410, its object has vanished, which is noted.
    """
    if document.object_key is None:
        reason = document.error_message or "it has not been fetched yet"
        raise ProblemError(problems.NOT_AVAILABLE, f"the document is {document.status}: {reason}")
    if await _has_vanished(request.app[STORAGE], document.object_key):
        mark = partial(losses.mark_missing, object_key=document.object_key)
        await request.app[DATABASE].in_transaction(mark)
        raise ProblemError(problems.GONE)
    return document.object_key


def redirect(link: str) -> web.Response:
    """Lead to a link, which is signed as it stands: encoding it again would break the signature."""
    location = str(URL(link, encoded=True))
    return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})


@Operation("documents", {200: "text/plain"}, problems=(problems.TOO_SECRET, problems.TEXT_NOT_AVAILABLE))
async def get_text(request: web.Request) -> web.Response:
    """Send the text that the court has made of a document, read from the portal at this moment."""
    read_query(request, NoQuery)
    document = await document_of(request)
    with request.app[TEXTS].taken(request[CLIENT].id):
        text = await _read_text(request, document)
    await note_access(request, "document.text", document.id)
    return web.Response(text=text, content_type="text/plain", headers={"Cache-Control": "private, no-store"})


async def document_of(request: web.Request) -> Document:
    """Return the document that the path names.

    Raises:
        NotFoundError: no such document, or none of the client's.
        ProblemError: 403, it is too secret for the client.
    """
    document_id = path_uuid(request, "document_id")
    async with request.app[DATABASE].connection() as conn:
        document = await documents.get_for_client(conn, document_id, request[CLIENT].id)
    if not request[CLIENT].may_have(document.secrecy_level, request.app[SETTINGS]):
        raise ProblemError(problems.TOO_SECRET)
    return document


async def _read_text(request: web.Request, document: Document) -> str:
    """Ask the portal, within its limits and for a bounded time.

    Raises:
        ProblemError: 404, it has no text for us; 503, it does not answer now.
    """
    source = request.app[SOURCES].of(document.process_number)
    try:
        async with asyncio.timeout(_TEXT_TIMEOUT_S), source.limit.slot():
            return await source.adapter.read_text(document.process_number, document.portal_uuid)
    except RefusedError as error:
        raise ProblemError(problems.TEXT_NOT_AVAILABLE) from error
    except PortalPausedError as error:
        wait_s = math.ceil(min(max(error.retry_after_s or 0, 1), _LONGEST_RETRY_AFTER_S))
        raise ProblemError(problems.UNAVAILABLE, headers={"Retry-After": str(wait_s)}) from error
    except (PortalError, TimeoutError) as error:
        raise ProblemError(problems.UNAVAILABLE, headers=_AGAIN) from error


async def _has_vanished(storage: Storage, object_key: str) -> bool:
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT_S):
            if await storage.exists(object_key):
                return False
            # A bucket that is not there is a mistake of the operator's, and no document's loss.
            await storage.check()
            return True
    except (StorageUnavailableError, TimeoutError):
        # The caller asks S3 himself, and may have more luck.
        return False
