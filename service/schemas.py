"""What comes out: the answers of the API."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from service.core.states import Priority


class Answer(BaseModel):
    """What goes out."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Invalid(Answer):
    """One thing that is wrong with a request; `pointer` is a JSON Pointer to the member or parameter."""

    pointer: str
    detail: str


class ProblemAnswer(Answer):
    """A problem (RFC 9457); `title` never varies with `type`, `detail` says what it is this time."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    """The `X-Request-ID` of this answer: tell it to us, and we find the request in our log."""
    errors: list[Invalid] = []


class HealthAnswer(Answer):
    """The process lives."""

    status: Literal["ok"]


class ReadyAnswer(Answer):
    """Whether it can serve, and which dependencies answer."""

    status: Literal["ready", "degraded", "unavailable", "draining"]
    checks: dict[str, str]


class DocumentAnswer(Answer):
    """One document; times in UTC, `size` in bytes, `sha256` in hexadecimal."""

    id: UUID
    uuid: UUID
    """The portal's id."""
    position: int
    """Its place in the court's list, the newest first."""
    name: str
    """As the court has it; names are not unique."""
    type: str | None
    status: str
    size: int | None
    mime_type: str | None
    sha256: str | None
    filed_at: datetime | None
    download_url: str | None
    """A link that needs no key and lasts an hour."""
    content_url: str | None
    """A link that never changes: with your key it redirects to a fresh one."""
    error_code: str | None
    error_message: str | None
    attempts: int
    download_started_at: datetime | None
    download_completed_at: datetime | None


class SummaryAnswer(Answer):
    """A job, as this client may see it."""

    process_number: str
    job_id: UUID
    status: str
    sequence: int
    """Rises with every change of the job."""
    total_documents: int
    completed_documents: int
    failed_documents: int
    pending_documents: int
    processing_documents: int
    progress_percentage: float
    """100 exactly when the job is final."""
    downloaded_bytes: int
    expected_bytes: int
    error_code: str | None
    error_message: str | None
    waiting_reason: str | None
    """Why the job waits for its next try, when it does."""
    next_attempt_at: datetime | None
    webhook_url: str | None
    """Without its query."""
    webhook_endpoint_id: UUID | None
    webhook_sent: bool
    webhook_sent_at: datetime | None
    webhook_attempts: int
    webhook_last_error: str | None
    reference: str | None
    priority: Priority
    """As you asked for it; the job takes the highest that anybody did."""
    filters: list[dict[str, Any]] | None
    """As you asked for them: documents that fit any of them; null is all."""
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class StatusAnswer(SummaryAnswer):
    """A job with the documents of its process."""

    documents: list[DocumentAnswer]


class ManifestEntry(Answer):
    """One document of a manifest; `file_name` is one under which all of them can be saved side by side."""

    id: UUID
    uuid: UUID
    position: int
    name: str
    file_name: str | None
    type: str | None
    status: str
    size: int | None
    mime_type: str | None
    sha256: str | None
    filed_at: datetime | None
    content_url: str | None
    error_code: str | None


class ManifestAnswer(Answer):
    """What a job brought in, the oldest document first."""

    process_number: str
    job_id: UUID
    status: str
    sequence: int
    total_documents: int
    total_bytes: int
    documents: list[ManifestEntry]


class DocumentsEvent(Answer):
    """The data of a `documents` event: those that changed; links are the ones that last."""

    documents: list[DocumentAnswer]


class JobListAnswer(Answer):
    """A page of jobs, the newest first; `missing` has the ids asked for that are no jobs of this client."""

    items: list[SummaryAnswer]
    next_cursor: str | None
    missing: list[str] | None


class ItemAnswer(Answer):
    """What became of one process of a batch; `problem` (RFC 9457) says why one was refused."""

    position: int
    process_number: str | None
    """null when the process was erased since."""
    reference: str | None
    outcome: Literal["created", "joined", "cached", "refused", "erased"]
    job_id: UUID | None
    status: str | None
    progress_percentage: float | None
    problem: dict[str, Any] | None


class BatchSummaryAnswer(Answer):
    """A batch and the sums over its jobs, each counted once."""

    batch_id: UUID
    status: Literal["processing", "finished"]
    sequence: int
    reference: str | None
    webhook_url: str | None
    webhook_endpoint_id: UUID | None
    total_processes: int
    refused_processes: int
    jobs: dict[str, int]
    total_documents: int
    completed_documents: int
    failed_documents: int
    progress_percentage: float
    created_at: datetime
    finished_at: datetime | None


class BatchAnswer(BatchSummaryAnswer):
    """A batch with each of its items, in the caller's order."""

    items: list[ItemAnswer]


class ErasureCounts(Answer):
    """What there was to erase, as you could see it."""

    jobs: int
    documents: int
    """Those of the process."""
    webhooks: int
    batch_items: int
    """Lines of batches that named the process."""
    kept_answers: int
    """Answers that were kept for an `Idempotency-Key`."""


class ErasureAnswer(Answer):
    """The receipt of an erasure. It does not say which process it was; `proof` shows it to who knows."""

    id: UUID
    requested_at: datetime
    finished_at: datetime | None
    """When the last object was gone and none could come any more; null before."""
    of_everyone: bool
    """Whether what every client had was erased, at an operator's wish."""
    counts: ErasureCounts
    proof: str
    """scrypt of the number's 20 digits: `$scrypt$ln=…,r=…,p=…$salt$hash`, salt and hash in base64."""


class Links(Answer):
    """Where to go on, as paths of this API."""

    status: str
    files: str
    job: str | None


class ProcessAnswer(Answer):
    """A process, as far as it is known; `last_consultation` is when the portal last listed its documents."""

    process_number: str
    court: str | None
    subject: str | None
    case_class: str | None
    status: str | None
    has_documents: bool | None
    documents_downloaded: bool
    total_documents: int
    completed_documents: int
    failed_documents: int
    progress_percentage: float
    last_consultation: datetime | None
    source_updated_at: datetime | None
    created_at: datetime
    updated_at: datetime
    job_id: UUID | None
    links: Links
    documents: list[DocumentAnswer]


class FilesAnswer(Answer):
    """The documents of a process with their links."""

    process_number: str
    job_id: UUID
    status: str
    total_documents: int
    documents: list[DocumentAnswer]


class ValidateAnswer(Answer):
    """Whether a webhook URL would be accepted."""

    valid: bool
    url: str | None
    message: str
    error: str | None


class CheckAnswer(Answer):
    """One step on the way to a receiver."""

    check: Literal["url", "dns", "connection", "tls", "http"]
    ok: bool | None
    """null: not reached, or there is none."""
    explanation: str
    """What was found, and what may help."""
    time_ms: float | None


class ConnectivityAnswer(Answer):
    """Whether a receiver answers at all, and how far one came; times in milliseconds."""

    success: bool
    status_code: int | None
    response_time_ms: float | None
    error: str | None
    checks: list[CheckAnswer]
    """Each step, in order, with a plain explanation."""


class SendTestAnswer(Answer):
    """How a signed test event was received."""

    success: bool
    status_code: int | None
    attempts: int
    message_id: str
    error: str | None


class EndpointAnswer(Answer):
    """A webhook endpoint."""

    id: UUID
    url: str
    """Without its query."""
    description: str | None
    events: list[str]
    """The types of event that it is told of."""
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: Literal["by_hand", "gone", "failing"] | None
    """`gone`: it answered 410. `failing`: it did nothing but fail for five days."""
    failing_since: datetime | None
    """The first failure since its last success."""
    created_at: datetime
    updated_at: datetime


class NewEndpointAnswer(EndpointAnswer):
    """A new webhook endpoint with its signing secret, which is shown this once."""

    secret: str


class EndpointListAnswer(Answer):
    """A page of endpoints, the newest first."""

    items: list[EndpointAnswer]
    next_cursor: str | None


class SecretAnswer(Answer):
    """A new signing secret, shown this once."""

    secret: str
    old_secret_expires_at: datetime | None
    """Until then every webhook is signed with both."""


class DeliverySummaryAnswer(Answer):
    """One event on its way to one place."""

    id: UUID
    webhook_id: str
    """As in the header; the same however often it is sent."""
    event: str
    status: Literal["pending", "delivered", "dead"]
    webhook_url: str
    """Without its query."""
    endpoint_id: UUID | None
    job_id: UUID | None
    batch_id: UUID | None
    attempt_count: int
    """Requests sent so far."""
    redeliveries: int
    """How often it was asked for again."""
    next_attempt_at: datetime | None
    """When it is sent next, as long as it is pending."""
    last_status_code: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None
    """The first time."""
    finished_at: datetime | None


class AttemptAnswer(Answer):
    """One request and what came of it."""

    number: int
    started_at: datetime
    duration_ms: float | None
    """To the status line; null when no answer came, since how long that took would tell why."""
    status_code: int | None
    error: Literal["no_answer", "not_allowed", "tls", "protocol"] | None
    """`no_answer`: closed, cut or timed out. `not_allowed`: the name has no address that may be called."""
    answer: str
    """The first 1,024 bytes of the body."""


class DeliveryAnswer(DeliverySummaryAnswer):
    """A delivery with its attempts and the event."""

    attempts: list[AttemptAnswer]
    """The newest first, 200 at most."""
    payload: dict[str, Any]
    """The event as it is kept; links are added when it is sent."""


class DeliveryListAnswer(Answer):
    """A page of the delivery log, the newest first."""

    items: list[DeliverySummaryAnswer]
    next_cursor: str | None


class RedeliveredAnswer(Answer):
    """How many are sent again."""

    redelivered: int
    next_since: datetime | None
    """When there are more than one call takes: call again with this `since`."""


class EchoAnswer(Answer):
    """What the test receiver got."""

    received: bool
    payload_keys: list[str]
    payload: dict[str, Any]
    signature_valid: bool | None
