"""Documents: the bytes of one."""

import asyncio
from datetime import UTC, datetime

from aiohttp import web
from yarl import URL

from service import problems
from service.contract import Operation
from service.core import documents
from service.core.errors import StorageUnavailableError
from service.core.storage import Storage
from service.handlers.jobs import path_uuid
from service.keys import CLIENT, DATABASE, STORAGE
from service.problems import ProblemError
from service.requests import read_query
from service.schemas import NoQuery

_LOOK_TIMEOUT_S = 2.0


@Operation(
    "documents",
    {302: None},
    problems=(problems.NOT_AVAILABLE, problems.GONE),
    tells=("Location",),
)
async def get_content(request: web.Request) -> web.Response:
    """Redirect to a fresh presigned URL of the document; 410 when its object is not there any more."""
    read_query(request, NoQuery)
    document_id = path_uuid(request, "document_id")
    async with request.app[DATABASE].connection() as conn:
        document = await documents.get_for_client(conn, document_id, request[CLIENT].id)
    if document.object_key is None:
        reason = document.error_message or "it has not been fetched yet"
        raise ProblemError(problems.NOT_AVAILABLE, f"the document is {document.status}: {reason}")
    if await _has_vanished(request.app[STORAGE], document.object_key):
        async with request.app[DATABASE].connection() as conn:
            await documents.mark_missing(conn, document.object_key)
        raise ProblemError(problems.GONE)
    name = documents.file_name(document.name, document.object_key)
    link = request.app[STORAGE].presign(document.object_key, filename=name, now=datetime.now(UTC))
    # The link is signed as it stands: encoding it again would break the signature.
    location = str(URL(link, encoded=True))
    return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})


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
