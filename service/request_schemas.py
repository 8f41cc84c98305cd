"""What goes in: the queries and bodies of requests."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service.core.events import REQUESTED_EVENTS
from service.core.states import Priority

MOST_IN_A_BATCH = 1000

# PostgreSQL takes no NUL in any text.
_NO_NUL = r"^[^\x00]*$"
_NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"

Reference = Annotated[str, Field(min_length=1, max_length=200, pattern=_NO_CONTROLS)]
"""A caller's own name for what it asks for."""

EventName = Annotated[str, Field(max_length=50, pattern=_NO_CONTROLS)]
TypeName = Annotated[str, Field(min_length=1, max_length=200, pattern=_NO_CONTROLS)]
Number = Annotated[
    str,
    Field(
        max_length=64,
        pattern=_NO_NUL,
        description="The CNJ number.",
        examples=["1003579-22.2025.8.26.0564"],
    ),
]


def _is_written_out(value: object) -> object:
    """Refuse the numbers that pydantic would take for a time, too."""
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d", value):
        return value
    raise PydanticCustomError("written_out", "should be written as RFC 3339 has it")


def _is_in_utc(value: datetime) -> datetime:
    """Refuse the first and the last hours that Python knows, where they are no time in UTC."""
    try:
        value.astimezone(UTC)
    except OverflowError as error:
        raise PydanticCustomError("out_of_time", "should lie in the years 1 to 9999") from error
    return value


RequestedEvent = Literal["job.started", "document.available", "document.failed"]
EndpointEvent = Literal[
    "job.completed",
    "job.partial",
    "job.failed",
    "job.cancelled",
    "job.started",
    "document.available",
    "document.failed",
    "batch.finished",
    "endpoint.disabled",
]

Day = Annotated[date, BeforeValidator(_is_written_out)]
Time = Annotated[AwareDatetime, BeforeValidator(_is_written_out), AfterValidator(_is_in_utc)]


T = TypeVar("T")


def _at_one_place(request: T, url: str | None, endpoint_id: UUID | None) -> T:
    if url is not None and endpoint_id is not None:
        raise PydanticCustomError("two_places", "give a URL or an endpoint, not both")
    return request


class Request(BaseModel):
    """A body or query; unknown members are refused, since a misspelt option would be lost in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ProcessQuery(Request):
    """The query of `GET /processes/{number}`."""

    auto_download: bool = True
    """Whether to see to it that the documents come in; without it only what is known is answered."""
    webhook_url: str | None = None
    """Told when the job is final."""
    webhook_endpoint_id: UUID | None = None
    """Or an endpoint of yours, which is told what it wants to be told."""
    force_refresh: bool = False
    """Ask the court again, however fresh what we have is."""

    @model_validator(mode="after")
    def _is_told_once(self) -> Self:
        return _at_one_place(self, self.webhook_url, self.webhook_endpoint_id)


class EraseQuery(Request):
    """The query of `DELETE /processes/{number}`."""

    everyone: bool = False
    """Whether to erase what every client has of the process; needs the scope `operator` too."""


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
    webhook_endpoint_id: UUID | None = None
    """Or an endpoint of yours, which is told what it wants to be told."""
    webhook_events: list[RequestedEvent] = Field([], max_length=len(REQUESTED_EVENTS))
    """What `webhook_url` is told of beside the job's end."""
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
        if self.webhook_events and self.webhook_url is None:
            raise PydanticCustomError("events_for_nobody", "webhook_events go with a webhook_url")
        return _at_one_place(self, self.webhook_url, self.webhook_endpoint_id)


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
    batch_webhook_endpoint_id: UUID | None = None
    """Or an endpoint of yours; it is told whatever it wants else."""
    batch_reference: Reference | None = None
    """Your own name for the batch."""

    @model_validator(mode="after")
    def _batch_is_told_once(self) -> Self:
        return _at_one_place(self, self.batch_webhook_url, self.batch_webhook_endpoint_id)


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
    """Where the new job is told; left out, where the old one was."""
    webhook_endpoint_id: UUID | None = None
    """Or an endpoint of yours."""

    @model_validator(mode="after")
    def _is_told_once(self) -> Self:
        return _at_one_place(self, self.webhook_url, self.webhook_endpoint_id)


class WebhookRequest(Request):
    """The body (or query) of the webhook tools."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"webhook_url": "https://hooks.example.com/autos"}]}
    )

    webhook_url: str = Field(validation_alias=AliasChoices("webhook_url", "url"))


class ReceiverRequest(Request):
    """The body (or query) of the webhook tools that call a receiver: a URL, or an endpoint of yours."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"webhook_url": "https://hooks.example.com/autos"}]}
    )

    webhook_url: str | None = Field(None, validation_alias=AliasChoices("webhook_url", "url"))
    endpoint_id: UUID | None = None

    @model_validator(mode="after")
    def _names_a_receiver(self) -> Self:
        if self.webhook_url is None and self.endpoint_id is None:
            raise PydanticCustomError("no_place", "give a webhook_url or an endpoint_id")
        return _at_one_place(self, self.webhook_url, self.endpoint_id)


class WebhookQuery(Request):
    """The query of the webhook tools, which may be used instead of a body."""

    webhook_url: str | None = None
    """The receiver, when there is no body."""


class ReceiverQuery(WebhookQuery):
    """The query of the tools that call a receiver, which may be used instead of a body."""

    endpoint_id: UUID | None = None
    """Or an endpoint of yours."""


Description = Annotated[str, Field(min_length=1, max_length=500, pattern=_NO_CONTROLS)]
EventFilter = Annotated[list[EndpointEvent], Field(min_length=1, max_length=20)]


class EndpointRequest(Request):
    """The body of `POST /webhooks/endpoints`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "url": "https://hooks.example.com/autos",
                    "description": "production",
                    "events": [
                        "job.completed",
                        "job.partial",
                        "job.failed",
                        "job.cancelled",
                        "batch.finished",
                    ],
                }
            ]
        }
    )

    url: str
    description: Description | None = None
    events: EventFilter = ["job.completed", "job.partial", "job.failed", "job.cancelled"]
    """The types of event that it is told of; left out, how each job ends."""
    enabled: StrictBool = True
    secret: Annotated[str, Field(max_length=100)] | None = None
    """Your own signing secret (`whsec_` and base64 of 24 to 64 bytes); left out, one is made."""


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


class EndpointChange(Request):
    """The body of `PATCH /webhooks/endpoints/{id}`: what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": True}]})

    # A default is needed to know what was left out, and is no one's wish.
    url: str = Field("", json_schema_extra=_without_default)
    description: Description | None = Field(None, json_schema_extra=_without_default)
    events: EventFilter = Field([], json_schema_extra=_without_default)
    enabled: StrictBool = Field(True, json_schema_extra=_without_default)
    """`false` disables it by hand; `true` enables it, however it was disabled, and sends nothing missed."""


class RotationRequest(Request):
    """The body of a rotation, which may be left out."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"grace_hours": 24}]})

    secret: Annotated[str, Field(max_length=100)] | None = None
    """The new secret; left out, one is made."""
    grace_hours: int = Field(24, ge=0, le=168, strict=True)
    """How long the old one signs beside it; 0 when it has leaked."""


class PageQuery(Request):
    """The query of a list without filters."""

    limit: int = Field(50, ge=1, le=200)
    """How many on a page."""
    cursor: str | None = Field(None, max_length=400)
    """The `next_cursor` of the page before."""


class DeliveryListQuery(Request):
    """The query of `GET /webhooks/deliveries`."""

    status: str | None = Field(None, max_length=100)
    """One or more of `pending`, `delivered` and `dead`, with commas between."""
    event: EventName | None = None
    """A type of event."""
    endpoint_id: UUID | None = None
    """Sent to this endpoint."""
    job_id: UUID | None = None
    """Telling of this job."""
    batch_id: UUID | None = None
    """Telling of this batch."""
    since: Time | None = None
    """Made at this time or later."""
    until: Time | None = None
    """Made before this time."""
    limit: int = Field(50, ge=1, le=200)
    """How many on a page."""
    cursor: str | None = Field(None, max_length=400)
    """The `next_cursor` of the page before, with the same filters."""


class RedeliverRequest(Request):
    """The body of `POST /webhooks/deliveries/redeliver`: which are sent again."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"since": "2026-03-02T00:00:00Z", "failed_only": True}]}
    )

    since: Time
    """Events made at this time or later."""
    until: Time | None = None
    """Made before this time."""
    failed_only: StrictBool = True
    """`false`: also what was delivered, for a receiver that has lost it."""
    endpoint_id: UUID | None = None
    event: EventName | None = None
    """Of this type only."""
