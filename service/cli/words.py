"""How things are written for people: texts of strangers made harmless, sizes, times."""

import unicodedata
from datetime import UTC, datetime

from service.schemas import SummaryAnswer


def plain(text: str) -> str:
    """Return a text in one line that moves no cursor and turns no reading direction round.

    Names come from a court, and answers from a receiver: on a terminal they would be commands.
    """
    return " ".join(
        "".join(" " if unicodedata.category(one)[0] == "C" or one.isspace() else one for one in text).split()
    )


def size(size_bytes: float) -> str:
    """Write a number of bytes as `1.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def moment(at: datetime) -> str:
    """Write a time in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def counts(job: SummaryAnswer) -> str:
    """Write how many documents a job has, as `9/26, 1 failed`."""
    failed = f", {job.failed_documents} failed" if job.failed_documents else ""
    return f"{job.completed_documents}/{job.total_documents}{failed}"


def reason(code: str | None, message: str | None) -> str:
    """Write why something failed or waits."""
    return plain(": ".join(part for part in (code, message) if part))


def end_of(job: SummaryAnswer) -> str:
    """Say in one line what became of a job, or how far it has come."""
    said = f"{plain(job.process_number)}  {plain(job.status)}  {counts(job)} documents"
    if job.downloaded_bytes:
        said += f", {size(job.downloaded_bytes)}"
    why = reason(job.error_code, job.error_message)
    return f"{said}  {why}" if why else said
