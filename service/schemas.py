"""What goes in and comes out: the requests and answers of the API."""

import re
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service.core.states import Priority

MOST_IN_A_BATCH = 1000

Reference = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A caller's own name for what it asks for."""

TypeName = Annotated[str, Field(min_length=1, max_length=200)]
Number = Annotated[
    str, Field(max_length=64, description="The CNJ number.", examples=["1003579-22.2025.8.26.0564"])
]


def _is_written_out(value: object) -> object:
    """Refuse the numbers that pydantic would take for a time, too."""
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d", value):
        return value
    raise PydanticCustomError("written_out", "should be written as RFC 3339 has it")


Day = Annotated[date, BeforeValidator(_is_written_out)]
Time = Annotated[AwareDatetime, BeforeValidator(_is_written_out)]

# Requests -----------------------------------------------------------------------------------------


class Request(BaseModel):
    """A body or query; unknown members are refused, since a misspelt option would be lost in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ProcessQuery(Request):
    """The query of `GET /processes/{number}`."""

    auto_download: bool = True
    """Whether to see to it that the documents come in; without it only what is known is answered."""
    webhook_url: str | None = None
    """Told when the job is final."""
    force_refresh: bool = False
    """Ask the court again, however fresh what we have is."""


class NoQuery(Request):
    """For routes that take no query."""


class StatusQuery(Request):
    """The query of everything that shows a job; `wait` in seconds."""

    wait: int | None = Field(None, ge=0, le=60)
    """Answer as soon as there is news, after so many seconds at the latest."""
    fields: Literal["all", "summary"] = "all"
    """`summary` leaves out the list."""


class DocumentFilter(Request):
    """Which documents a job brings in: those that fit everything given; days are days in Brasília, included.

    `types` are the court's names of types, in upper or lower case; `ids` are ids of ours or the portal's.
    """

    types: list[TypeName] | None = Field(None, min_length=1, max_length=50)
    filed_from: Day | None = None
    filed_until: Day | None = None
    ids: list[UUID] | None = Field(None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.filters() == [{}]:
            raise PydanticCustomError("empty_filter", "should name types, days or ids")
        if self.filed_from and self.filed_until and self.filed_until < self.filed_from:
            raise PydanticCustomError("empty_period", "filed_until should not be before filed_from")
        return self

    def filters(self) -> list[dict[str, Any]]:
        """Return the filter as a job has it."""
        found = self.model_dump(mode="json", exclude_none=True)
        if self.types:
            found["types"] = sorted({name.lower() for name in self.types})
        return [found]


class JobOptions(Request):
    """What can be said of a job that is asked for; times in seconds."""

    webhook_url: str | None = None
    """Told when the job is final."""
    force_refresh: bool = False
    """Ask the court again, however fresh what we have is."""
    max_age_s: int | None = Field(None, ge=0, le=31_536_000)
    """How old what we have may be; older than that the court is asked again."""
    deadline_s: int | None = Field(None, ge=1, le=604_800)
    """When to give up: the job ends then, with what there is."""
    priority: Priority = Priority.NORMAL
    """Jobs of a higher one go first; within one, clients take turns."""
    reference: Reference | None = None
    """Your own name for the job, shown wherever the job is."""
    filter: DocumentFilter | None = None
    """Which documents to bring in; without it all."""

    @model_validator(mode="after")
    def _is_of_one_mind(self) -> Self:
        if self.force_refresh and self.max_age_s:
            raise PydanticCustomError("two_ages", "force_refresh means a max_age_s of 0")
        return self


class JobRequest(JobOptions):
    """The body of `POST /jobs`, and a line of an NDJSON batch."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"process_number": "1003579-22.2025.8.26.0564"},
                {
                    "process_number": "1003579-22.2025.8.26.0564",
                    "webhook_url": "https://hooks.example.com/autos",
                    "priority": "high",
                    "reference": "client 4711",
                    "deadline_s": 86400,
                    "max_age_s": 3600,
                    "filter": {"types": ["sentença"], "filed_from": "2026-01-01"},
                },
            ]
        }
    )

    process_number: Number


class BatchQuery(Request):
    """The query of an NDJSON batch: its own webhook and reference."""

    batch_webhook_url: str | None = None
    """Told when the last job of the batch is final."""
    batch_reference: Reference | None = None
    """Your own name for the batch."""


class BatchRequest(JobOptions, BatchQuery):
    """The body of `POST /jobs/batch`: the options go for each process."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "process_numbers": ["1003579-22.2025.8.26.0564", "9000003-16.2025.8.26.0100"],
                    "batch_webhook_url": "https://hooks.example.com/batches",
                    "batch_reference": "July",
                }
            ]
        }
    )

    process_numbers: list[Number] = Field(min_length=1, max_length=MOST_IN_A_BATCH)


class StreamQuery(Request):
    """The query of a stream: for readers that cannot send `Last-Event-ID`."""

    last_event_id: str | None = Field(None, max_length=100)
    """As the header `Last-Event-ID`, for readers that cannot send it."""


class JobListQuery(Request):
    """The query of `GET /jobs`: which jobs, how many, and where the last page ended; or just their ids."""

    ids: str | None = Field(None, min_length=1, max_length=7600)
    """Up to 200 ids of jobs, with commas between; goes with no other parameter."""
    status: str | None = Field(None, max_length=100)
    """One or more states, with commas between."""
    reference: Reference | None = None
    """Your own name for the jobs."""
    process_number: str | None = Field(None, max_length=64)
    """Jobs of this process."""
    created_from: Time | None = None
    """Created at this time or later."""
    created_until: Time | None = None
    """Created before this time."""
    limit: int = Field(50, ge=1, le=200)
    """How many on a page."""
    cursor: str | None = Field(None, max_length=400)
    """The `next_cursor` of the page before, with the same filters."""


class RetryRequest(Request):
    """The body of `POST /jobs/{id}/retry`, which may be left out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"webhook_url": "https://hooks.example.com/autos"}]}
    )

    webhook_url: str | None = None


class WebhookRequest(Request):
    """The body (or query) of the webhook tools."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"webhook_url": "https://hooks.example.com/autos"}]}
    )

    webhook_url: str = Field(validation_alias=AliasChoices("webhook_url", "url"))


class WebhookQuery(Request):
    """The query of the webhook tools, which may be used instead of a body."""

    webhook_url: str | None = None
    """The receiver, when there is no body."""


# Answers ------------------------------------------------------------------------------------------


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
    webhook_sent: bool
    webhook_sent_at: datetime | None
    webhook_attempts: int
    webhook_last_error: str | None
    reference: str | None
    priority: Priority
    filters: list[dict[str, Any]] | None
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
    process_number: str
    reference: str | None
    outcome: Literal["created", "joined", "cached", "refused"]
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


class ConnectivityAnswer(Answer):
    """Whether a receiver answers at all; time in milliseconds."""

    success: bool
    status_code: int | None
    response_time_ms: float | None
    error: str | None


class SendTestAnswer(Answer):
    """How a signed test event was received."""

    success: bool
    status_code: int | None
    attempts: int
    message_id: str
    error: str | None


class EchoAnswer(Answer):
    """What the test receiver got."""

    received: bool
    payload_keys: list[str]
    payload: dict[str, Any]
    signature_valid: bool | None
