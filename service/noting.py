"""Who is handed documents, or links to them, is noted before the answer leaves, or else it does not leave."""

from uuid import UUID

from aiohttp import web

from service.core.accesses import Access
from service.keys import ACCESSES, CLIENT, REQUEST_ID


async def note_access(
    request: web.Request, action: str, subject: UUID, documents: int = 1, *, sequence: int | None = None
) -> None:
    """Note that the client gets so many documents, or links to so many; nothing when there are none.

    Nobody holds a connection meanwhile: this needs one.

    Args:
        action: noun and what of it, as in `document.content`; `subject` is the noun's id.
        sequence: of the job that is shown: the same again, as who polls it gets, is not noted twice while the
            links of the first time live.

    Raises:
        DatabaseUnavailableError: it cannot be noted now.
    """
    if documents:
        client = request[CLIENT]
        access = Access(
            client.id, action, subject, documents, key_id=client.key_id, request_id=request[REQUEST_ID]
        )
        await request.app[ACCESSES].note(access, sequence=sequence)
