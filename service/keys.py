"""Where handlers find what the application opened, and who is calling."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from service.core.accesses import AccessLog
from service.core.clients import Client
from service.core.db import Database
from service.core.key_ring import KeyRing
from service.core.news import News
from service.core.outbound import Outbound
from service.core.pulse import Pulses
from service.core.queue import Queue
from service.core.rate_limit import RateLimit, Verdict
from service.core.readiness import Looks
from service.core.settings import Settings
from service.core.sources import Sources
from service.core.storage import Storage
from service.load import Load
from service.lookups import Lookups
from service.places import Places
from service.submissions import Submissions

SETTINGS = web.AppKey("settings", Settings)
DATABASE = web.AppKey("database", Database)
QUEUE = web.AppKey("queue", Queue)
STORAGE = web.AppKey("storage", Storage)
OUTBOUND = web.AppKey("outbound", Outbound)
KEY_RING = web.AppKey("key_ring", KeyRing)
NEWS = web.AppKey("news", News)
DRAINING = web.AppKey("draining", asyncio.Event)
"""Set when the process is about to end: connections are closed with their next answer."""

OPENAPI = web.AppKey("openapi", dict[str, Any])
"""What the API says of itself."""

SILENCE = web.AppKey("silence", float)
"""Seconds within which every stream says something, and looks whether its reader may still read it."""

RATE_LIMIT = web.AppKey("rate_limit", RateLimit)
LOAD = web.AppKey("load", Load)
LOOKS = web.AppKey("looks", Looks)
LOOKUPS = web.AppKey("lookups", Lookups)
ACCESSES = web.AppKey("accesses", AccessLog)
SUBMISSIONS = web.AppKey("submissions", Submissions)
SOURCES = web.AppKey("sources", Sources)
PULSES = web.AppKey("pulses", Pulses)
TEXTS = web.AppKey("texts", Places)
"""Places for texts on their way from the portal."""

ARCHIVES = web.AppKey("archives", Places)
"""Places for archives that are being sent."""

PREVIEWS = web.AppKey("previews", Places)
"""Places for documents that are being shown on the dashboard."""

REQUEST_ID = web.RequestKey("request_id", str)
"""By which the log and the caller name this request."""

VERDICT = web.RequestKey("verdict", Verdict)
"""What the rate limit says of this request."""

CLIENT = web.RequestKey("client", Client)
"""Set by the middleware on every request that had to bring a key."""

LOOK_AGAIN = web.RequestKey[Callable[[], Awaitable[Client | None]]]("look_again")
"""Finds out once more who is calling; None when the key or the session has ended since."""

BEGUN = web.RequestKey("begun", web.StreamResponse)
"""The answer that is being sent while its handler still writes it."""

ORIGIN = web.RequestKey("origin", str)
"""The `traceparent` of what the request begins."""

WAITED_S = web.RequestKey("waited_s", float)
"""Seconds for which the caller wished to wait, and did."""
