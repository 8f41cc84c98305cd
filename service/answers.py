"""Making answers: rows become what a caller reads, links are signed at that moment and stored nowhere."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from aiohttp import web
from pydantic import BaseModel
from yarl import URL

from service.core import cnj, secrecy
from service.core.batches import Batch, Item
from service.core.clients import Client
from service.core.deliveries import message_id
from service.core.delivery_log import Logged, LoggedAttempt
from service.core.documents import Document, file_name
from service.core.endpoints import Endpoint
from service.core.erasures import Erasure
from service.core.events import MOST_DOCUMENTS
from service.core.jobs import Job
from service.core.processes import Process
from service.core.settings import Settings
from service.core.states import DeliveryStatus, DocumentStatus, JobStatus
from service.core.storage import Storage
from service.core.subscriptions import WebhookState
from service.schemas import (
    AttemptAnswer,
    BatchAnswer,
    BatchSummaryAnswer,
    DeliveryAnswer,
    DeliverySummaryAnswer,
    DocumentAnswer,
    EndpointAnswer,
    ErasureAnswer,
    ErasureCounts,
    FilesAnswer,
    ItemAnswer,
    Links,
    ProcessAnswer,
    StatusAnswer,
    SummaryAnswer,
)

ErrorClass = Literal["no_answer", "not_allowed", "tls", "protocol"]

# Whether a port is closed, filtered or slow is nobody's business: all of that is `no_answer`.
_ERROR_CLASSES: dict[str, ErrorClass] = {
    "refused_destination": "not_allowed",
    "dns": "not_allowed",
    "tls": "tls",
    "protocol": "protocol",
}


def json_response(
    answer: BaseModel, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Answer with a model as JSON, never to be kept by a shared cache."""
    return body_response(encode(answer), status=status, headers=headers)


def encode(answer: BaseModel) -> bytes:
    """Return a model as JSON."""
    # asyncpg has a UUID class of its own, which orjson does not know.
    return orjson.dumps(answer.model_dump(), default=str, option=orjson.OPT_UTC_Z)


def body_response(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with JSON that is made already."""
    return web.Response(
        body=body,
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "private, no-cache", **(headers or {})},
    )


def document_answers(
    documents: Sequence[Document],
    *,
    client: Client,
    settings: Settings,
    storage: Storage,
    presigned: bool = True,
) -> list[DocumentAnswer]:
    """Show documents, newest first; what is too secret for the client without links, and as `secrecy` has it.

    Up to 100 documents carry a presigned `download_url`; above that it is the stable redirect, because
    signing thousands of links would hold up everybody else.
    """
    at = datetime.now(UTC) if presigned and len(documents) <= MOST_DOCUMENTS else None
    most = settings.secrecy_ceiling(client.max_secrecy)
    return [_document(document, settings, storage, at) for document in secrecy.shown(documents, most=most)]


def count_links(documents: Sequence[DocumentAnswer]) -> int:
    """Return to how many of the documents there is a link."""
    return sum(document.content_url is not None for document in documents)


def status_answer(
    job: Job, documents: list[DocumentAnswer] | None, webhook: WebhookState
) -> StatusAnswer | SummaryAnswer:
    """Show a job with its documents, or without their list."""
    is_waiting = job.status is JobStatus.PENDING and job.waiting_reason is not None
    summary = SummaryAnswer(
        process_number=cnj.mask(job.process_number),
        job_id=job.id,
        status=job.status,
        sequence=job.sequence,
        total_documents=job.total_documents,
        completed_documents=job.completed_documents,
        failed_documents=job.failed_documents,
        pending_documents=job.pending_documents,
        processing_documents=job.processing_documents,
        progress_percentage=round(job.progress_percentage, 2),
        downloaded_bytes=job.downloaded_bytes,
        expected_bytes=job.expected_bytes,
        error_code=job.error_code,
        error_message=job.error_message,
        waiting_reason=job.waiting_reason,
        next_attempt_at=job.next_attempt_at if is_waiting else None,
        webhook_url=without_query(webhook.url),
        webhook_endpoint_id=webhook.endpoint_id,
        webhook_sent=webhook.sent_at is not None,
        webhook_sent_at=webhook.sent_at,
        webhook_attempts=webhook.attempts,
        webhook_last_error=webhook.last_error,
        reference=webhook.reference,
        # The job's own are what all who share it asked for.
        priority=webhook.priority,
        filters=webhook.filters,
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.finished_at,
    )
    return summary if documents is None else StatusAnswer(**dict(summary), documents=documents)


def batch_answer(batch: Batch, items: Sequence[Item] | None) -> BatchSummaryAnswer:
    """Show a batch with its items, or without their list."""
    summary = BatchSummaryAnswer(
        batch_id=batch.id,
        status="finished" if batch.finished_at else "processing",
        sequence=batch.sequence,
        reference=batch.reference,
        webhook_url=without_query(batch.webhook_url),
        webhook_endpoint_id=batch.endpoint_id,
        total_processes=batch.total_processes,
        refused_processes=batch.refused_processes,
        jobs=batch.jobs,
        total_documents=batch.total_documents,
        completed_documents=batch.completed_documents,
        failed_documents=batch.failed_documents,
        progress_percentage=round(batch.progress_percentage, 2),
        created_at=batch.created_at,
        finished_at=batch.finished_at,
    )
    if items is None:
        return summary
    return BatchAnswer(**dict(summary), items=[ItemAnswer(**asdict(item)) for item in items])


def erasure_answer(erasure: Erasure) -> ErasureAnswer:
    """Show the receipt of an erasure."""
    return ErasureAnswer(
        id=erasure.id,
        requested_at=erasure.requested_at,
        finished_at=erasure.finished_at,
        of_everyone=erasure.of_everyone,
        counts=ErasureCounts(**asdict(erasure.counts)),
        proof=erasure.proof,
    )


def process_answer(
    process: Process, job: Job, documents: list[DocumentAnswer], *, prefix: str
) -> ProcessAnswer:
    """Show a process with its present job."""
    number = cnj.mask(process.number)
    return ProcessAnswer(
        process_number=number,
        court=process.court,
        subject=process.subject,
        case_class=process.case_class,
        status=job.status,
        has_documents=None if process.listed_at is None else bool(documents),
        documents_downloaded=job.status is JobStatus.COMPLETED,
        total_documents=job.total_documents,
        completed_documents=job.completed_documents,
        failed_documents=job.failed_documents,
        progress_percentage=round(job.progress_percentage, 2),
        last_consultation=process.listed_at,
        source_updated_at=process.source_updated_at,
        created_at=process.created_at,
        updated_at=process.updated_at,
        job_id=job.id,
        links=Links(
            status=f"{prefix}/processes/{number}/status",
            files=f"{prefix}/processes/{number}/files",
            job=f"{prefix}/jobs/{job.id}",
        ),
        documents=documents,
    )


def files_answer(job: Job, documents: list[DocumentAnswer]) -> FilesAnswer:
    """Show the documents of a process."""
    return FilesAnswer(
        process_number=cnj.mask(job.process_number),
        job_id=job.id,
        status=job.status,
        total_documents=len(documents),
        documents=documents,
    )


def page_response(request: web.Request, page: BaseModel, cursor: str | None) -> web.Response:
    """Answer with a page of a list, which names the next one in a header too."""
    headers = {}
    if cursor:
        headers["Link"] = f'<{request.rel_url.update_query(cursor=cursor)}>; rel="next"'
    return json_response(page, headers=headers)


def endpoint_answer(endpoint: Endpoint) -> EndpointAnswer:
    """Show an endpoint, without its secret."""
    return EndpointAnswer(
        id=endpoint.id,
        url=_shown(endpoint.url),
        description=endpoint.description,
        events=endpoint.events,
        enabled=endpoint.disabled_at is None,
        disabled_at=endpoint.disabled_at,
        disabled_reason=endpoint.disabled_reason.value if endpoint.disabled_reason else None,
        failing_since=endpoint.failing_since,
        created_at=endpoint.created_at,
        updated_at=endpoint.updated_at,
    )


def delivery_answer(
    delivery: Logged, attempts: Sequence[LoggedAttempt] | None = None, payload: dict[str, Any] | None = None
) -> DeliverySummaryAnswer:
    """Show a delivery: with its attempts and its event, or without both."""
    summary = DeliverySummaryAnswer(
        id=delivery.id,
        webhook_id=message_id(delivery.id),
        event=delivery.event,
        status=delivery.status.value,
        webhook_url=_shown(delivery.url),
        endpoint_id=delivery.endpoint_id,
        job_id=delivery.job_id,
        batch_id=delivery.batch_id,
        attempt_count=delivery.attempts,
        redeliveries=delivery.redeliveries,
        next_attempt_at=delivery.next_attempt_at if delivery.status is DeliveryStatus.PENDING else None,
        last_status_code=delivery.last_status_code,
        last_error=delivery.last_error,
        created_at=delivery.created_at,
        delivered_at=delivery.delivered_at,
        finished_at=delivery.finished_at,
    )
    if attempts is None or payload is None:
        return summary
    shown = [_attempt(one) for one in attempts]
    return DeliveryAnswer(**dict(summary), attempts=shown, payload=payload)


def _attempt(attempt: LoggedAttempt) -> AttemptAnswer:
    return AttemptAnswer(
        number=attempt.number,
        started_at=attempt.started_at,
        duration_ms=None if attempt.status_code is None else round(attempt.duration_ms, 1),
        status_code=attempt.status_code,
        error=_ERROR_CLASSES.get(attempt.error, "no_answer") if attempt.error else None,
        answer=attempt.answer,
    )


def _shown(url: str) -> str:
    return str(URL(url, encoded=True).with_query(None))


def without_query(url: str | None) -> str | None:
    """Show a webhook URL without its query, where callers keep tokens."""
    return None if url is None else _shown(url)


def _document(
    document: Document, settings: Settings, storage: Storage, now: datetime | None
) -> DocumentAnswer:
    content_url = download_url = None
    if document.status is DocumentStatus.AVAILABLE and document.object_key is not None:
        content_url = download_url = f"{settings.public_url}/documents/{document.id}/content"
        if now is not None:
            name = file_name(document.name, document.object_key)
            download_url = storage.presign(document.object_key, filename=name, now=now)
    return DocumentAnswer(
        id=document.id,
        uuid=document.portal_uuid,
        position=document.position,
        name=document.name,
        type=document.type,
        status=document.status,
        size=document.size_bytes,
        mime_type=document.media_type,
        sha256=document.sha256.hex() if document.sha256 else None,
        filed_at=document.filed_at,
        download_url=download_url,
        content_url=content_url,
        error_code=document.error_code,
        error_message=document.error_message,
        attempts=document.attempts,
        download_started_at=document.download_started_at,
        download_completed_at=document.download_completed_at,
    )
