"""What a webhook says: the event as it is stored, and the body as it is sent.

The stored event never changes; links are added when it is sent, since nothing presigned is ever stored.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from service.core import cnj
from service.core.batches import Batch
from service.core.documents import Document, file_name
from service.core.endpoints import Endpoint
from service.core.jobs import Job
from service.core.settings import Settings
from service.core.states import DocumentStatus
from service.core.storage import Storage

MOST_DOCUMENTS = 100
"""Above this many the list is left out of the event of a job's end; an event of documents has no more."""

FINAL_EVENTS = ("job.completed", "job.partial", "job.failed", "job.cancelled")
"""What everybody is told who asks for a job with a webhook."""

REQUESTED_EVENTS = ("job.started", "document.available", "document.failed")
"""What of a job is told on request."""


def job_event(job: Job, documents: Sequence[Document]) -> dict[str, Any]:
    """Describe a final job, as its webhook will tell it for ever."""
    event: dict[str, Any] = {
        "type": f"job.{job.status}",
        "timestamp": job.finished_at,
        "process_number": cnj.mask(job.process_number),
        "job_id": job.id,
        "sequence": job.sequence,
        "status": job.status,
        "total_documents": job.total_documents,
        "completed_documents": job.completed_documents,
        "failed_documents": job.failed_documents,
        "progress_percentage": job.progress_percentage,
        "created_at": job.created_at,
        "completed_at": job.finished_at,
        "error_code": job.error_code,
        "error_message": job.error_message,
    }
    if len(documents) <= MOST_DOCUMENTS:
        event["documents"] = [_document(document) for document in documents]
    return _stored(event)


def started_event(job: Job) -> dict[str, Any]:
    """Tell that a worker has taken a job up."""
    return _stored(
        {
            "type": "job.started",
            "timestamp": job.started_at,
            "process_number": cnj.mask(job.process_number),
            "job_id": job.id,
            "sequence": job.sequence,
            "status": job.status,
            "created_at": job.created_at,
        }
    )


def documents_event(job: Job, documents: Sequence[Document], *, kind: str, at: datetime) -> dict[str, Any]:
    """Tell of documents that came in, or that failed; `kind` is the type of the event."""
    return _stored(
        {
            "type": kind,
            "timestamp": at,
            "process_number": cnj.mask(job.process_number),
            "job_id": job.id,
            "sequence": job.sequence,
            "documents": [_document(document) for document in documents],
        }
    )


def disabled_event(endpoint: Endpoint) -> dict[str, Any]:
    """Tell that nothing is sent to an endpoint any more; its URL without the query."""
    return _stored(
        {
            "type": "endpoint.disabled",
            "timestamp": endpoint.disabled_at,
            "endpoint_id": endpoint.id,
            "url": endpoint.url.partition("?")[0],
            "reason": endpoint.disabled_reason,
            "failing_since": endpoint.failing_since,
        }
    )


def erased_event(job_id: UUID, erasure_id: UUID, at: datetime) -> dict[str, Any]:
    """Tell who waits for a job that it was erased with its process; the number is gone from here too."""
    return _stored({"type": "process.erased", "timestamp": at, "erasure_id": erasure_id, "job_id": job_id})


def batch_event(batch: Batch) -> dict[str, Any]:
    """Describe a batch of which every job has ended."""
    event = {
        "type": "batch.finished",
        "timestamp": batch.finished_at,
        "batch_id": batch.id,
        "total_processes": batch.total_processes,
        "refused_processes": batch.refused_processes,
        "jobs": batch.jobs,
        "total_documents": batch.total_documents,
        "completed_documents": batch.completed_documents,
        "failed_documents": batch.failed_documents,
        "created_at": batch.created_at,
        "finished_at": batch.finished_at,
    }
    return _stored(event)


def body(
    event: Mapping[str, Any],
    object_keys: Mapping[UUID, str],
    *,
    reference: str | None,
    settings: Settings,
    storage: Storage,
    signed_at: datetime,
) -> bytes:
    """Return the bytes to send.

    Args:
        object_keys: the S3 key of each document, by its id.
        reference: the receiver's own name for what the event tells of.
        signed_at: the time from which links count; the same time gives the same bytes, so that a repeat
            after a crash between sending and noting it is identical.
    """
    links = [
        _with_links(item, object_keys.get(UUID(item["id"])), settings, storage, signed_at)
        for item in event.get("documents", ())
    ]
    sent = dict(event)
    if not {"endpoint_id", "erasure_id"} & event.keys():
        sent["reference"] = reference
    if "process_number" in event:
        sent["documents_url"] = f"{settings.public_url}/processes/{event['process_number']}/files"
    if "documents" in event:
        sent["documents"] = links
    return orjson.dumps(sent)


def _stored(event: Mapping[str, Any]) -> dict[str, Any]:
    stored: dict[str, Any] = orjson.loads(orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z))
    return stored


def _document(document: Document) -> dict[str, Any]:
    return {
        "id": document.id,
        "uuid": document.portal_uuid,
        "name": document.name,
        "type": document.type,
        "size": document.size_bytes,
        "mime_type": document.media_type,
        "sha256": document.sha256.hex() if document.sha256 else None,
        "status": document.status,
        "error_code": document.error_code,
        "error_message": document.error_message,
    }


def _with_links(
    item: dict[str, Any], object_key: str | None, settings: Settings, storage: Storage, signed_at: datetime
) -> dict[str, Any]:
    if item["status"] != DocumentStatus.AVAILABLE or object_key is None:
        return {**item, "download_url": None, "content_url": None}
    return {
        **item,
        "download_url": storage.presign(
            object_key, filename=file_name(item["name"], object_key), now=signed_at
        ),
        "content_url": f"{settings.public_url}/documents/{item['id']}/content",
    }
