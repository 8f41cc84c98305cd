"""What webhooks say, for the OpenAPI description; one schema for each type of event, for ever.

Headers are those of Standard Webhooks (https://www.standardwebhooks.com).
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

HEADERS = {
    "webhook-id": "Names the event; the same on every repetition.",
    "webhook-timestamp": "Unix seconds of this attempt.",
    "webhook-signature": "`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; "
    "there may be several, with spaces between.",
}


class Event(BaseModel):
    """What every event has."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    timestamp: datetime
    """When it happened, not when it was sent."""


class EventDocument(BaseModel):
    """A document, as the event found it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: UUID
    uuid: UUID
    """The portal's id."""
    name: str
    type: str | None
    size: int | None
    """Bytes; null unless available, as are the media type and the hash."""
    mime_type: str | None
    sha256: str | None
    status: Literal["available", "failed", "skipped", "withdrawn"]
    error_code: str | None
    error_message: str | None
    download_url: str | None
    """A presigned link, made when the webhook is sent."""
    content_url: str | None
    """Redirects to a fresh link; never changes."""


class JobEvent(Event):
    """A job has ended, and how."""

    type: Literal["job.completed", "job.partial", "job.failed", "job.cancelled"]
    process_number: str
    job_id: UUID
    sequence: int
    """Rises with every change of the job: of two events of one job the higher is the later."""
    status: Literal["completed", "partial", "failed", "cancelled"]
    total_documents: int
    completed_documents: int
    failed_documents: int
    progress_percentage: float
    created_at: datetime
    completed_at: datetime
    error_code: str | None
    error_message: str | None
    documents: list[EventDocument] = []
    """All documents of the process, newest first; left out above 100."""
    reference: str | None
    """The receiver's own name for the job."""
    documents_url: str
    """Where the list can be read with a key."""


class BatchEvent(Event):
    """The last job of a batch has ended."""

    type: Literal["batch.finished"]
    batch_id: UUID
    total_processes: int
    refused_processes: int
    jobs: dict[str, int]
    """How many jobs ended with which status."""
    total_documents: int
    completed_documents: int
    failed_documents: int
    created_at: datetime
    finished_at: datetime
    reference: str | None


class TestEvent(Event):
    """A test that a client asked for: nothing happened."""

    type: Literal["webhook.test"]
    message: str


EVENTS: dict[str, type[Event]] = {
    "job.completed": JobEvent,
    "job.partial": JobEvent,
    "job.failed": JobEvent,
    "job.cancelled": JobEvent,
    "batch.finished": BatchEvent,
    "webhook.test": TestEvent,
}
