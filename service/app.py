"""The API: what it opens, and which handler answers which path."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import cache, partial
from typing import Any, TypeVar

from aiohttp import web

from service.access import log_access, tell_request_id
from service.core.accesses import AccessLog
from service.core.db import open_database
from service.core.key_ring import KeyRing
from service.core.news import open_news
from service.core.outbound import open_outbound
from service.core.pulse import open_pulses
from service.core.queue import open_queue
from service.core.rate_limit import open_rate_limit
from service.core.readiness import ask_dependencies, open_looks
from service.core.settings import Settings
from service.core.sources import open_sources
from service.core.storage import open_storage
from service.dashboard import pages
from service.dashboard import routes as dashboard
from service.handlers import (
    batches,
    deliveries,
    docs,
    documents,
    endpoints,
    erasures,
    events,
    health,
    jobs,
    metrics,
    problems,
    processes,
    results,
    submissions,
    webhooks,
)
from service.keys import (
    ACCESSES,
    ARCHIVES,
    DATABASE,
    DRAINING,
    KEY_RING,
    LOAD,
    LOOKS,
    LOOKUPS,
    NEWS,
    OPENAPI,
    OUTBOUND,
    PREVIEWS,
    PULSES,
    QUEUE,
    RATE_LIMIT,
    SETTINGS,
    SILENCE,
    SOURCES,
    STORAGE,
    SUBMISSIONS,
    TEXTS,
)
from service.load import Load
from service.lookups import Lookups
from service.measuring import measure
from service.middleware import ERROR_PAGE, answer_problems, authenticate, begin_answer, shed_load
from service.openapi import describe
from service.places import Places
from service.streams import SILENCE_S
from service.submissions import Submissions

_MAX_BODY_BYTES = 64 * 1024

# Archives at once in one process: each takes bytes through it, which links do not. Who reads slowly keeps its
# place long, and so one client has a few of them only.
_MOST_ARCHIVES = 8
_MOST_ARCHIVES_EACH = 2
_ARCHIVES_AGAIN_S = 10
# Documents at once that the dashboard shows, for a minute each at most.
_MOST_PREVIEWS = 8
_MOST_PREVIEWS_EACH = 4
_PREVIEWS_AGAIN_S = 5
# Texts at once: each is held in memory whole, and takes a place of the portal's.
_MOST_TEXTS = 8
_MOST_TEXTS_EACH = 4
_TEXTS_AGAIN_S = 5
# With it a caller hears within three seconds that a silent database is away.
_DATABASE_PATIENCE_S = 2.5

# What is no id is no path either: `/jobs/batch` is never taken for a job.
_ID = "[0-9A-Fa-f-]+"

T = TypeVar("T")


def create_app(settings: Settings, *, silence_s: float = SILENCE_S) -> web.Application:
    """Compose the application; it opens its resources when it starts and closes them when it ends.

    Args:
        silence_s: for tests only.
    """
    app = web.Application(
        middlewares=[measure, log_access, answer_problems, shed_load, authenticate],
        client_max_size=_MAX_BODY_BYTES,
    )
    app.on_response_prepare.extend([tell_request_id, begin_answer])
    app[SETTINGS] = settings
    app[KEY_RING] = KeyRing(settings.key_ring)
    app[DRAINING] = asyncio.Event()
    app[ERROR_PAGE] = pages.show_problem
    app[SILENCE] = silence_s
    app[LOAD] = Load(settings.max_requests)
    app[ARCHIVES] = Places(_MOST_ARCHIVES, most_each=_MOST_ARCHIVES_EACH, retry_after_s=_ARCHIVES_AGAIN_S)
    app[PREVIEWS] = Places(_MOST_PREVIEWS, most_each=_MOST_PREVIEWS_EACH, retry_after_s=_PREVIEWS_AGAIN_S)
    app[TEXTS] = Places(_MOST_TEXTS, most_each=_MOST_TEXTS_EACH, retry_after_s=_TEXTS_AGAIN_S)
    app.cleanup_ctx.extend(
        [
            _opened(DATABASE, partial(open_database, patience_s=_DATABASE_PATIENCE_S)),
            _lookups,
            _accesses,
            _opened(NEWS, open_news),
            _opened(QUEUE, open_queue),
            _submissions,
            _rate_limit,
            _sources,
            _pulses,
            _opened(STORAGE, open_storage),
            _looks,
            _opened(OUTBOUND, open_outbound),
        ]
    )
    app.add_routes(dashboard.routes())
    for prefix in ("", "/api/v1"):
        app.add_routes(_routes(prefix))
    app[OPENAPI] = _description(settings.public_url)
    return app


@cache
def _description(base_url: str) -> dict[str, Any]:
    """The same for every application of this process at one address."""
    return describe(_routes(""), base_url=base_url)


def _routes(prefix: str) -> list[web.RouteDef]:
    return [
        web.get(f"{prefix}/processes/{{number}}", processes.get_process, allow_head=False),
        web.delete(f"{prefix}/processes/{{number}}", erasures.erase_process),
        web.get(f"{prefix}/erasures/{{erasure_id:{_ID}}}", erasures.get_erasure, allow_head=False),
        web.get(f"{prefix}/processes/{{number}}/status", processes.get_status, allow_head=False),
        web.get(f"{prefix}/processes/{{number}}/files", processes.get_files, allow_head=False),
        web.get(f"{prefix}/processes/{{number}}/documents.zip", results.get_archive, allow_head=False),
        web.get(f"{prefix}/documents/{{document_id:{_ID}}}/content", documents.get_content, allow_head=False),
        web.get(f"{prefix}/documents/{{document_id:{_ID}}}/text", documents.get_text, allow_head=False),
        web.post(f"{prefix}/jobs", submissions.create_job),
        web.get(f"{prefix}/jobs", jobs.list_jobs, allow_head=False),
        web.post(f"{prefix}/jobs/batch", submissions.create_batch),
        web.get(f"{prefix}/batches/{{batch_id:{_ID}}}", batches.get_batch, allow_head=False),
        web.get(f"{prefix}/jobs/{{job_id:{_ID}}}", jobs.get_job, allow_head=False),
        web.get(f"{prefix}/jobs/{{job_id:{_ID}}}/manifest", results.get_manifest, allow_head=False),
        web.get(f"{prefix}/jobs/{{job_id:{_ID}}}/events", events.follow_job, allow_head=False),
        web.get(f"{prefix}/events", events.follow_all, allow_head=False),
        web.post(f"{prefix}/jobs/{{job_id:{_ID}}}/cancel", jobs.cancel_job),
        web.post(f"{prefix}/jobs/{{job_id:{_ID}}}/retry", submissions.retry_job),
        *_webhook_routes(f"{prefix}/webhooks"),
        web.get(f"{prefix}/healthz", health.healthz),
        web.get(f"{prefix}/readyz", health.readyz),
        web.get(f"{prefix}/metrics", metrics.show_metrics),
        web.get(f"{prefix}/problems/{{code}}", problems.show_problem),
        web.get(f"{prefix}/openapi.json", docs.show_openapi),
        web.get(f"{prefix}/docs", docs.show_docs),
    ]


def _webhook_routes(at: str) -> list[web.RouteDef]:
    endpoint, delivery = f"{at}/endpoints/{{endpoint_id:{_ID}}}", f"{at}/deliveries/{{delivery_id:{_ID}}}"
    return [
        web.post(f"{at}/endpoints", endpoints.create_endpoint),
        web.get(f"{at}/endpoints", endpoints.list_endpoints, allow_head=False),
        web.get(endpoint, endpoints.get_endpoint, allow_head=False),
        web.patch(endpoint, endpoints.change_endpoint),
        web.delete(endpoint, endpoints.delete_endpoint),
        web.post(f"{endpoint}/rotate-secret", endpoints.rotate_endpoint_secret),
        web.post(f"{at}/rotate-secret", endpoints.rotate_own_secret),
        web.get(f"{at}/deliveries", deliveries.list_deliveries, allow_head=False),
        web.post(f"{at}/deliveries/redeliver", deliveries.redeliver_many),
        web.get(delivery, deliveries.get_delivery, allow_head=False),
        web.post(f"{delivery}/redeliver", deliveries.redeliver),
        web.post(f"{at}/webhook-validate", webhooks.validate_webhook),
        web.post(f"{at}/webhook-test-connectivity", webhooks.test_connectivity),
        web.post(f"{at}/webhook-send-test", webhooks.send_test),
        web.post(f"{at}/webhook-test-receiver", webhooks.test_receiver),
    ]


async def _lookups(app: web.Application) -> AsyncIterator[None]:
    app[LOOKUPS] = Lookups(app[DATABASE])
    yield


async def _accesses(app: web.Application) -> AsyncIterator[None]:
    app[ACCESSES] = AccessLog(app[DATABASE], link_ttl_s=app[SETTINGS].link_ttl_s)
    yield


async def _submissions(app: web.Application) -> AsyncIterator[None]:
    app[SUBMISSIONS] = Submissions(app[DATABASE], app[QUEUE], app[NEWS], app[SETTINGS])
    yield


async def _rate_limit(app: web.Application) -> AsyncIterator[None]:
    async with open_rate_limit(app[QUEUE]) as app[RATE_LIMIT]:
        yield


async def _sources(app: web.Application) -> AsyncIterator[None]:
    async with open_sources(app[SETTINGS], app[DATABASE], app[QUEUE].redis) as app[SOURCES]:
        yield


async def _pulses(app: web.Application) -> AsyncIterator[None]:
    async with open_pulses(app[DATABASE], app[SOURCES], app[SETTINGS]) as app[PULSES]:
        yield


async def _looks(app: web.Application) -> AsyncIterator[None]:
    look = partial(ask_dependencies, app[DATABASE], app[QUEUE], app[STORAGE])
    async with open_looks(look) as app[LOOKS]:
        yield


def _opened(
    key: web.AppKey[T], open_resource: Callable[[Settings], AbstractAsyncContextManager[T]]
) -> Callable[[web.Application], AsyncIterator[None]]:
    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        async with open_resource(app[SETTINGS]) as resource:
            app[key] = resource
            yield

    return lifetime
