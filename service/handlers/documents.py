"""Documents: the bytes of one."""

from datetime import UTC, datetime

from aiohttp import web
from yarl import URL

from service import problems
from service.core import documents
from service.handlers.jobs import path_uuid
from service.keys import CLIENT, DATABASE, STORAGE
from service.problems import ProblemError
from service.requests import read_query
from service.schemas import NoQuery


async def get_content(request: web.Request) -> web.Response:
    """Redirect to a fresh presigned URL of the document."""
    read_query(request, NoQuery)
    document_id = path_uuid(request, "document_id")
    async with request.app[DATABASE].connection() as conn:
        document = await documents.get_for_client(conn, document_id, request[CLIENT].id)
    if document.object_key is None:
        reason = document.error_message or "it has not been fetched yet"
        raise ProblemError(problems.NOT_AVAILABLE, f"the document is {document.status}: {reason}")
    name = documents.file_name(document.name, document.object_key)
    link = request.app[STORAGE].presign(document.object_key, filename=name, now=datetime.now(UTC))
    # The link is signed as it stands: encoding it again would break the signature.
    location = str(URL(link, encoded=True))
    return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})
