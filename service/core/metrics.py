"""Every metric of Autos, and how they are shown to Prometheus.

Names begin with `autos_` and end with their unit; beside a counter of failures stands one of what was tried.
A label has few values, all of them ours: never a client, an id, a process number, a host or a URL.
docs/operations.md says what each tells.
"""

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from service import __version__

REGISTRY = CollectorRegistry()

# Of every series when it began would double what is shown.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no type for it

_histogram = partial(Histogram, registry=REGISTRY)


def _counter(name: str, words: str, labels: Sequence[str] = (), values: Sequence[str] = ()) -> Counter:
    """Make a counter.

    Args:
        values: of its only label, to be there from the beginning: what appears at 1 has not risen.
    """
    counter = Counter(name, words, labels, registry=REGISTRY)
    for value in values:
        counter.labels(value)
    return counter


_API_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_PORTAL_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
_S3_BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 45)
_DATABASE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_REDIS_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.5)
_WEBHOOK_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)
_PLACE_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)
_JOB_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21_600)

Info("autos_build", "Which version runs.", registry=REGISTRY).info({"version": __version__})
# Under the names that every program has them by: `process_resident_memory_bytes`, `process_open_fds` …
ProcessCollector(registry=REGISTRY)

# The API --------------------------------------------------------------------------------------------

HTTP_REQUESTS = _counter(
    "autos_http_requests_total",
    "Requests answered, by the class of the status.",
    ["method", "route", "status"],
)
HTTP_SECONDS = _histogram(
    "autos_http_request_duration_seconds",
    "How long answers took, without the waits that callers asked for; streams left out.",
    ["method", "route"],
    buckets=_API_BUCKETS_S,
)

# The portal -----------------------------------------------------------------------------------------

PORTAL_REQUESTS = _counter("autos_portal_requests_total", "Calls to the portal.", ["operation"])
PORTAL_FAILURES = _counter(
    "autos_portal_request_failures_total", "Those that failed, by error code.", ["operation", "reason"]
)
PORTAL_SECONDS = _histogram(
    "autos_portal_request_duration_seconds",
    "How long they took; a document is opened and then received.",
    ["operation"],
    buckets=_PORTAL_BUCKETS_S,
)
PORTAL_PLACE_SECONDS = _histogram(
    "autos_portal_place_wait_seconds",
    "How long requests waited for a place at the portal.",
    buckets=_PLACE_BUCKETS_S,
)
PORTAL_THROTTLES = _counter(
    "autos_portal_throttles_total", "Times that the portal asked for patience (429, 503)."
)
PORTAL_BREAKER_OPENINGS = _counter(
    "autos_portal_breaker_openings_total", "Times that the portal was left alone for its failures."
)
TOKEN_RENEWALS = _counter("autos_portal_token_renewals_total", "Times that a token was asked for.")
TOKEN_RENEWAL_FAILURES = _counter(
    "autos_portal_token_renewal_failures_total",
    "Those that brought none: the credential was refused, or the server gave no token.",
    ["reason"],
    ("refused", "unavailable"),
)

# S3 -------------------------------------------------------------------------------------------------

S3_REQUESTS = _counter("autos_s3_requests_total", "Calls to S3.", ["operation"])
S3_FAILURES = _counter(
    "autos_s3_request_failures_total", "Those that failed, by kind of failure.", ["operation", "reason"]
)
S3_SECONDS = _histogram(
    "autos_s3_request_duration_seconds",
    "How long they took, with their tries.",
    ["operation"],
    buckets=_S3_BUCKETS_S,
)
STORED_BYTES = _counter("autos_stored_bytes_total", "Bytes of documents put into S3.")

# PostgreSQL -----------------------------------------------------------------------------------------

DATABASE_WAIT_SECONDS = _histogram(
    "autos_database_wait_seconds", "How long it took to be lent a connection.", buckets=_DATABASE_BUCKETS_S
)
DATABASE_BLOCKS = _counter(
    "autos_database_blocks_total",
    "Times that a connection was lent: statements, or one transaction.",
    ["operation"],
)
DATABASE_BLOCK_FAILURES = _counter(
    "autos_database_block_failures_total",
    "Those that the database failed: unavailable, or undone for another's.",
    ["operation", "reason"],
)
DATABASE_BLOCK_SECONDS = _histogram(
    "autos_database_block_duration_seconds",
    "How long they took, waiting for the connection included.",
    ["operation"],
    buckets=_DATABASE_BUCKETS_S,
)

# Redis ----------------------------------------------------------------------------------------------

REDIS_REQUESTS = _counter(
    "autos_redis_requests_total", "Calls to Redis, each for many who ask.", ["operation"]
)
REDIS_FAILURES = _counter(
    "autos_redis_request_failures_total", "Those that failed, by kind of failure.", ["operation", "reason"]
)
REDIS_SECONDS = _histogram(
    "autos_redis_request_duration_seconds", "How long they took.", ["operation"], buckets=_REDIS_BUCKETS_S
)

# Webhooks -------------------------------------------------------------------------------------------

WEBHOOK_REQUESTS = _counter("autos_webhook_requests_total", "Requests to receivers.", ["operation"])
WEBHOOK_FAILURES = _counter(
    "autos_webhook_request_failures_total",
    "Those not answered with 2xx, by class of status or of error.",
    ["operation", "reason"],
)
WEBHOOK_SECONDS = _histogram(
    "autos_webhook_request_duration_seconds",
    "How long receivers took.",
    ["operation"],
    buckets=_WEBHOOK_BUCKETS_S,
)
DELIVERIES = _counter(
    "autos_deliveries_total",
    "Rounds of sending: the webhook was delivered, is dead, or goes out again later.",
    ["outcome"],
    ("delivered", "dead", "again"),
)

# Jobs -----------------------------------------------------------------------------------------------

JOBS_CREATED = _counter("autos_jobs_created_total", "Jobs begun for a caller.")
JOBS_ENDED = _counter(
    "autos_jobs_ended_total",
    "Jobs that ended, by their final status.",
    ["status"],
    ("completed", "partial", "failed", "cancelled"),
)
JOB_SECONDS = _histogram(
    "autos_job_duration_seconds", "From a job's submission to its end.", ["status"], buckets=_JOB_BUCKETS_S
)
JOB_WAIT_SECONDS = _histogram(
    "autos_job_wait_seconds", "From a job's submission to its first run.", buckets=_JOB_BUCKETS_S
)
RUNS = _counter(
    "autos_job_runs_total",
    "Runs of jobs: the job ended, is retried, waits for the portal, was handed back, or lost its lease.",
    ["outcome"],
    ("ended", "retried", "waits", "handed_back", "lost"),
)
LEASES_EXPIRED = _counter("autos_leases_expired_total", "Leases of dead workers that were freed.")
DOCUMENTS = _counter(
    "autos_documents_total",
    "Documents that were tried: available, failed, or to be tried again by their job.",
    ["outcome"],
    ("available", "failed", "again"),
)
DOCUMENT_FAILURES = _counter(
    "autos_document_failures_total", "Those not available, by error code.", ["reason"]
)

# The pulse: what one process sees of them all ---------------------------------------------------------

_PULSE: Mapping[str, str] = {
    "autos_queue_oldest_age_seconds": "For how long the job that waits the longest has been due.",
    "autos_leases": "Jobs that workers hold.",
    "autos_portal_concurrency_limit": "Requests that may be in flight to the portal now, over all workers.",
    "autos_portal_in_flight": "Requests in flight to the portal, over all workers.",
    "autos_portal_breaker_open": "1 while the portal is left alone for its failures.",
    "autos_portal_token_expiry_timestamp_seconds": "When the portal's token ends.",
    "autos_portal_token_is_refused": "1 while the portal has no token from us that it accepts.",
    "autos_sweep_last_timestamp_seconds": "When a sweep last ended well.",
    "autos_janitor_last_timestamp_seconds": "When the janitor last ended well.",
    "autos_deliveries_pending": "Webhooks that wait to be sent.",
    "autos_deliveries_oldest_age_seconds": "For how long the webhook that is latest has been due.",
    "autos_erasures_oldest_age_seconds": "For how long the oldest erasure has not been finished.",
    "autos_canary_last_success_timestamp_seconds": "When the canary last came through.",
    "autos_canary_duration_seconds": "How long it took.",
    "autos_pulse_last_timestamp_seconds": "When this process last saw the whole.",
}
# What stays true however long ago it was found out.
_LAST = re.compile(r"_last_(success_)?timestamp_seconds$")
_QUEUE_JOBS = ("autos_queue_jobs", "Jobs that have not ended, by state.")


class _Pulse(Collector):
    """Gauges whose values somebody else finds out; what is not known is not shown."""

    def __init__(self) -> None:
        self.queue_jobs: Mapping[str, int] = {}
        self.values: Mapping[str, float | None] = {}

    def describe(self) -> Iterable[Metric]:
        """Return every gauge, without a value."""
        yield GaugeMetricFamily(*_QUEUE_JOBS, labels=["state"])
        for name, words in _PULSE.items():
            yield GaugeMetricFamily(name, words)

    def collect(self) -> Iterable[Metric]:
        """Return the gauges that have a value."""
        queue = GaugeMetricFamily(*_QUEUE_JOBS, labels=["state"])
        for state, count in self.queue_jobs.items():
            queue.add_metric([state], count)
        yield queue
        for name, value in self.values.items():
            if value is not None:
                yield GaugeMetricFamily(name, _PULSE[name], value=value)


_pulse = _Pulse()
REGISTRY.register(_pulse)


def show_pulse(
    *,
    queue_jobs: Mapping[str, int],
    queue_oldest_age_s: float | None = None,
    leases: int | None = None,
    portal_concurrency_limit: int | None = None,
    portal_in_flight: int | None = None,
    is_portal_breaker_open: bool | None = None,
    portal_token_expires_at: datetime | None = None,
    is_portal_token_refused: bool | None = None,
    swept_at: datetime | None = None,
    cleaned_at: datetime | None = None,
    deliveries_pending: int | None = None,
    deliveries_oldest_age_s: float | None = None,
    erasures_oldest_age_s: float | None = None,
    canary_succeeded_at: datetime | None = None,
    canary_duration_s: float | None = None,
    taken_at: datetime | None = None,
) -> None:
    """Show these values from now on; what is None is not known, and not shown.

    Args:
        queue_jobs: how many are in which state; the states are the same each time.
    """
    _pulse.queue_jobs = dict(queue_jobs)
    _pulse.values = {
        "autos_queue_oldest_age_seconds": queue_oldest_age_s,
        "autos_leases": leases,
        "autos_portal_concurrency_limit": portal_concurrency_limit,
        "autos_portal_in_flight": portal_in_flight,
        "autos_portal_breaker_open": is_portal_breaker_open,
        "autos_portal_token_expiry_timestamp_seconds": _timestamp(portal_token_expires_at),
        "autos_portal_token_is_refused": is_portal_token_refused,
        "autos_sweep_last_timestamp_seconds": _timestamp(swept_at),
        "autos_janitor_last_timestamp_seconds": _timestamp(cleaned_at),
        "autos_deliveries_pending": deliveries_pending,
        "autos_deliveries_oldest_age_seconds": deliveries_oldest_age_s,
        "autos_erasures_oldest_age_seconds": erasures_oldest_age_s,
        "autos_canary_last_success_timestamp_seconds": _timestamp(canary_succeeded_at),
        "autos_canary_duration_seconds": canary_duration_s,
        "autos_pulse_last_timestamp_seconds": _timestamp(taken_at),
    }


def hide_pulse() -> None:
    """Show no longer what may be different by now; when something last ended well is shown all the same.

    Nothing in place of NaN: such a series ends for Prometheus at once, and `absent` sees that.
    """
    never = {"autos_pulse_last_timestamp_seconds": 0.0}
    last = {name: value for name, value in _pulse.values.items() if _LAST.search(name) and value is not None}
    _pulse.queue_jobs = {}
    _pulse.values = never | last


def _timestamp(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


# How all of it is shown -------------------------------------------------------------------------------

TEXT = "text/plain"
OPENMETRICS = "application/openmetrics-text"


def render(accept: str) -> tuple[str, bytes]:
    """Return the present values: their content type and the text, as OpenMetrics if that is accepted.

    Args:
        accept: the header of the request.
    """
    if OPENMETRICS in accept:
        body: bytes = openmetrics.generate_latest(REGISTRY)  # type: ignore[no-untyped-call]  # as above
        return f"{OPENMETRICS}; version=1.0.0; charset=utf-8", body
    return f"{TEXT}; version=0.0.4; charset=utf-8", exposition.generate_latest(REGISTRY)


def may_see(authorization: str, token: str | None) -> bool:
    """Whether a request may see them: everybody may unless there is a token.

    Args:
        authorization: the header of the request.
    """
    if token is None:
        return True
    scheme, _, given = authorization.partition(" ")
    is_the_token = hmac.compare_digest(given.strip().encode(errors="replace"), token.encode())
    return scheme.lower() == "bearer" and is_the_token
