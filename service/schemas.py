"""What goes in and comes out: the requests and answers of the API."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

# Requests -----------------------------------------------------------------------------------------


class Request(BaseModel):
    """A body or query; unknown members are refused, since a misspelt option would be lost in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProcessQuery(Request):
    """The query of `GET /processes/{number}`."""

    auto_download: bool = True
    webhook_url: str | None = None
    force_refresh: bool = False


class NoQuery(Request):
    """For routes that take no query."""


class StatusQuery(Request):
    """The query of everything that shows a job; `wait` in seconds."""

    wait: int | None = Field(None, ge=0, le=60)
    fields: Literal["all", "summary"] = "all"


class JobRequest(Request):
    """The body of `POST /jobs`."""

    process_number: str = Field(max_length=64)
    webhook_url: str | None = None
    force_refresh: bool = False


class RetryRequest(Request):
    """The body of `POST /jobs/{id}/retry`, which may be left out."""

    webhook_url: str | None = None


class WebhookRequest(Request):
    """The body (or query) of the webhook tools."""

    webhook_url: str = Field(validation_alias=AliasChoices("webhook_url", "url"))


# Answers ------------------------------------------------------------------------------------------


class DocumentAnswer(BaseModel):
    """One document; times in UTC, `size` in bytes, `sha256` in hexadecimal."""

    id: UUID
    uuid: UUID
    position: int
    name: str
    type: str | None
    status: str
    size: int | None
    mime_type: str | None
    sha256: str | None
    filed_at: datetime | None
    download_url: str | None
    content_url: str | None
    error_code: str | None
    error_message: str | None
    attempts: int
    download_started_at: datetime | None
    download_completed_at: datetime | None


class SummaryAnswer(BaseModel):
    """A job, as this client may see it."""

    process_number: str
    job_id: UUID
    status: str
    sequence: int
    total_documents: int
    completed_documents: int
    failed_documents: int
    pending_documents: int
    processing_documents: int
    progress_percentage: float
    downloaded_bytes: int
    expected_bytes: int
    error_code: str | None
    error_message: str | None
    waiting_reason: str | None
    next_attempt_at: datetime | None
    webhook_url: str | None
    webhook_sent: bool
    webhook_sent_at: datetime | None
    webhook_attempts: int
    webhook_last_error: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class StatusAnswer(SummaryAnswer):
    """A job with the documents of its process."""

    documents: list[DocumentAnswer]


class Links(BaseModel):
    """Where to go on, as paths of this API."""

    status: str
    files: str
    job: str | None


class ProcessAnswer(BaseModel):
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


class FilesAnswer(BaseModel):
    """The documents of a process with their links."""

    process_number: str
    job_id: UUID
    status: str
    total_documents: int
    documents: list[DocumentAnswer]


class ValidateAnswer(BaseModel):
    """Whether a webhook URL would be accepted."""

    valid: bool
    url: str | None
    message: str
    error: str | None


class ConnectivityAnswer(BaseModel):
    """Whether a receiver answers at all; time in milliseconds."""

    success: bool
    status_code: int | None
    response_time_ms: float | None
    error: str | None


class SendTestAnswer(BaseModel):
    """How a signed test event was received."""

    success: bool
    status_code: int | None
    attempts: int
    message_id: str
    error: str | None


class EchoAnswer(BaseModel):
    """What the test receiver got."""

    received: bool
    payload_keys: list[str]
    payload: dict[str, Any]
    signature_valid: bool | None
