"""What a worker process holds open, once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from service.core.accesses import AccessLog
from service.core.db import Database, open_database
from service.core.key_ring import KeyRing
from service.core.outbound import Outbound, open_outbound
from service.core.queue import Queue, open_queue
from service.core.settings import Settings
from service.core.sources import Sources, open_sources
from service.core.storage import Storage, open_storage
from worker.beats import Beats
from worker.claims import Claims, open_claims
from worker.destinations import Destinations
from worker.outbox import Outbox
from worker.places import Places


@dataclass(eq=False)
class Run:
    """One run of a job in this process.

    Attributes:
        since: when it began, by the monotonic clock, in seconds.
        fetched: documents that it has dealt with.
        beat_at: when its heartbeat last turned, by the same clock.
        is_over: set when the job is to give its place to somebody else's, and go on later.
    """

    client_id: UUID
    fetched: int = 0
    since: float = field(default_factory=time.monotonic)
    beat_at: float = field(default_factory=time.monotonic)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def silent_s(self) -> float:
        """For how long its heartbeat has not turned."""
        return time.monotonic() - self.beat_at


@dataclass(frozen=True)
class Context:
    """The open resources that tasks work with.

    Attributes:
        downloads: places for documents in flight in this process.
        destinations: what is being sent by this process, and to where no more is sent for now.
        runs: the jobs that run in this process.
        beats: when its loops last turned.
        stopping: set when the process should end; tasks then begin nothing new.
    """

    settings: Settings
    db: Database
    queue: Queue
    sources: Sources
    storage: Storage
    outbound: Outbound
    outbox: Outbox
    accesses: AccessLog
    destinations: Destinations
    downloads: Places
    claims: Claims
    worker_id: UUID
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    runs: set[Run] = field(default_factory=set)
    beats: Beats = field(default_factory=Beats)


@asynccontextmanager
async def open_context(settings: Settings) -> AsyncIterator[Context]:
    """Open everything a worker needs, and close it in the opposite order."""
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(open_queue(settings))
        db = await stack.enter_async_context(open_database(settings))
        worker_id = uuid4()
        yield Context(
            settings=settings,
            db=db,
            queue=queue,
            sources=await stack.enter_async_context(open_sources(settings, db, queue.redis)),
            storage=await stack.enter_async_context(open_storage(settings)),
            outbound=await stack.enter_async_context(open_outbound(settings)),
            outbox=Outbox(db, KeyRing(settings.key_ring), settings),
            accesses=AccessLog(db, link_ttl_s=settings.link_ttl_s),
            destinations=Destinations(
                places=settings.deliveries_per_worker, slow_places=settings.slow_deliveries_per_worker
            ),
            downloads=Places(settings.downloads_per_worker),
            claims=open_claims(db, queue, settings, worker_id),
            worker_id=worker_id,
        )


async def wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Sleep, but not beyond the event."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
