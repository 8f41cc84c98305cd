"""The names of objects in S3: of which document each is, and which try of which run wrote it."""

import re
from uuid import UUID

_RUN = re.compile(r"/([0-9a-f]{32})-\d+-\d+-\d+\.\w+$")


def prefix(number: str) -> str:
    """Return what all objects of a process begin with; `number` is its 20 digits."""
    return f"processes/{number}/"


def new(number: str, portal_uuid: UUID, job_id: UUID, tries: tuple[int, int, int], extension: str) -> str:
    """Return the key of one try, which no other try ever writes.

    Args:
        tries: the fence of the run, the document's attempts before it, and the try within it.
    """
    run = "-".join([job_id.hex, *map(str, tries)])
    return f"{prefix(number)}{portal_uuid}/{run}.{extension}"


def job_of(key: str) -> UUID | None:
    """Return the job whose run wrote the object; None for a key that `new` has not made."""
    found = _RUN.search(key)
    return UUID(found[1]) if found else None
