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
    "there may be several, with spaces between: while a secret is being replaced, one with each.",
    "traceparent": "The trace that the event is a part of (W3C): of the request, if that brought one.",
    "autos-redelivery": "How often the event was asked for again by hand; left out when it was not.",
}
NOT_ALWAYS = {"autos-redelivery"}


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

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "job.partial",
                    "timestamp": "2026-03-02T12:00:03Z",
                    "process_number": "9000003-16.2025.8.26.0100",
                    "job_id": "3ae81e9f-263d-4aea-8ba6-a6aae79982ce",
                    "sequence": 7,
                    "status": "partial",
                    "total_documents": 2,
                    "completed_documents": 1,
                    "failed_documents": 1,
                    "progress_percentage": 100.0,
                    "created_at": "2026-03-02T12:00:00Z",
                    "completed_at": "2026-03-02T12:00:03Z",
                    "error_code": None,
                    "error_message": None,
                    "documents": [],
                    "reference": "client 4711",
                    "documents_url": "https://autos.example/processes/9000003-16.2025.8.26.0100/files",
                }
            ]
        }
    )

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


class StartedEvent(Event):
    """A worker has taken the job up."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "job.started",
                    "timestamp": "2026-03-02T12:00:01Z",
                    "process_number": "9000003-16.2025.8.26.0100",
                    "job_id": "3ae81e9f-263d-4aea-8ba6-a6aae79982ce",
                    "sequence": 2,
                    "status": "processing",
                    "created_at": "2026-03-02T12:00:00Z",
                    "reference": "client 4711",
                    "documents_url": "https://autos.example/processes/9000003-16.2025.8.26.0100/files",
                }
            ]
        }
    )

    type: Literal["job.started"]
    process_number: str
    job_id: UUID
    sequence: int
    """As in the event of the job's end."""
    status: Literal["processing"]
    created_at: datetime
    reference: str | None
    documents_url: str


class DocumentsEvent(Event):
    """Documents of a running job have come in, or have failed; up to 100 in one event, every two seconds."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "document.failed",
                    "timestamp": "2026-03-02T12:00:03Z",
                    "process_number": "9000003-16.2025.8.26.0100",
                    "job_id": "3ae81e9f-263d-4aea-8ba6-a6aae79982ce",
                    "sequence": 6,
                    "documents": [
                        {
                            "id": "0b5f9a2c-9f5f-4c29-8d7d-6f6c8d1c2f11",
                            "uuid": "f2b7d0a4-3f0e-5a51-9a39-0c4d2e8b7a66",
                            "name": "Decisão",
                            "type": "Decisão",
                            "size": None,
                            "mime_type": None,
                            "sha256": None,
                            "status": "failed",
                            "error_code": "not_found",
                            "error_message": "the portal has no file of this document",
                            "download_url": None,
                            "content_url": None,
                        }
                    ],
                    "reference": "client 4711",
                    "documents_url": "https://autos.example/processes/9000003-16.2025.8.26.0100/files",
                }
            ]
        }
    )

    type: Literal["document.available", "document.failed"]
    process_number: str
    job_id: UUID
    sequence: int
    """Of the job when this was so; the event of its end has a higher one, or the same."""
    documents: list[EventDocument]
    reference: str | None
    documents_url: str


class EndpointDisabledEvent(Event):
    """Nothing is sent to one of your endpoints any more, until it is enabled again."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "endpoint.disabled",
                    "timestamp": "2026-03-07T12:00:00Z",
                    "endpoint_id": "6f1c3a52-2a59-4f1e-a1b2-2e1f5a3c9d10",
                    "url": "https://hooks.example.com/autos",
                    "reason": "failing",
                    "failing_since": "2026-03-02T11:58:00Z",
                }
            ]
        }
    )

    type: Literal["endpoint.disabled"]
    endpoint_id: UUID
    url: str
    """Without its query."""
    reason: Literal["by_hand", "gone", "failing"]
    """`gone`: it answered 410. `failing`: it did nothing but fail for five days."""
    failing_since: datetime | None


class BatchEvent(Event):
    """The last job of a batch has ended."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "batch.finished",
                    "timestamp": "2026-03-02T12:00:09Z",
                    "batch_id": "5b0d4c0e-8f57-4c5d-9a38-0a3d6f2b7f10",
                    "total_processes": 3,
                    "refused_processes": 1,
                    "jobs": {"completed": 1, "failed": 1},
                    "total_documents": 26,
                    "completed_documents": 26,
                    "failed_documents": 0,
                    "created_at": "2026-03-02T12:00:00Z",
                    "finished_at": "2026-03-02T12:00:09Z",
                    "reference": "July",
                }
            ]
        }
    )

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


class ErasedEvent(Event):
    """A job that you wait for was erased with its process: nothing more will be told of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "process.erased",
                    "timestamp": "2026-03-02T12:00:02Z",
                    "erasure_id": "c0b3a5e6-4f9b-4a39-9a0e-0d5a3b7f6e21",
                    "job_id": "3ae81e9f-263d-4aea-8ba6-a6aae79982ce",
                }
            ]
        }
    )

    type: Literal["process.erased"]
    erasure_id: UUID
    """For whom operates Autos; the number of the process is nowhere any more."""
    job_id: UUID


class TestEvent(Event):
    """A test that a client asked for: nothing happened."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "webhook.test",
                    "timestamp": "2026-03-02T12:00:00Z",
                    "message": "a test of Autos: nothing happened",
                }
            ]
        }
    )

    type: Literal["webhook.test"]
    message: str


EVENTS: dict[str, type[Event]] = {
    "job.completed": JobEvent,
    "job.partial": JobEvent,
    "job.failed": JobEvent,
    "job.cancelled": JobEvent,
    "job.started": StartedEvent,
    "document.available": DocumentsEvent,
    "document.failed": DocumentsEvent,
    "batch.finished": BatchEvent,
    "endpoint.disabled": EndpointDisabledEvent,
    "process.erased": ErasedEvent,
    "webhook.test": TestEvent,
}
