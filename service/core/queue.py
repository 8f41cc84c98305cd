"""Redis as the doorbell: arq tasks that carry nothing but an id.

A lost ring loses nothing: the sweep of every worker reads PostgreSQL and rings again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import orjson
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.jobs import serialize_job
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.core import metrics
from service.core.errors import EvictingRedisError
from service.core.redis_client import open_redis_pool
from service.core.settings import Settings
from service.core.telemetry import Calls

FETCH_PROCESS = "fetch_process"
DELIVER = "deliver"
JOBS_QUEUE = "autos:jobs"
DELIVERIES_QUEUE = "autos:deliveries"

REDIS_ERRORS = (RedisError, OSError, TimeoutError, RuntimeError)
"""Everything that a Redis which is away, silent or full can raise. RuntimeError is uvloop's word, which
redis-py passes on, for a connection that was cut while a command was being written."""


def _reason_of(error: Exception) -> str | None:
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return "timeout"
    is_answer = isinstance(error, RedisError) and not isinstance(error, RedisConnectionError)
    return "refused" if is_answer else "connection"


REDIS = Calls(
    "redis",
    requests=metrics.REDIS_REQUESTS,
    failures=metrics.REDIS_FAILURES,
    seconds=metrics.REDIS_SECONDS,
    reason_of=_reason_of,
)
"""What is asked of Redis, here and by those who share its connections."""

_RING_TIMEOUT_S = 1.5
_CALL_WAIT_S = 1.0
_AWAY_S = 1.0
# What arq keeps of a ring beside its place in the queue.
_ARQ_PREFIXES = (job_key_prefix, in_progress_key_prefix, retry_key_prefix)
# A ring that was lost between Redis and a claim may be repeated under a new id after this long.
_RING_BUCKET_S = 60
# Enough to keep many workers busy between two sweeps; all else waits in PostgreSQL.
_MOST_WAITING = 1000
_KEPT_MS = 86_400_000
# A worker takes what was due in the past by its own clock, which may be behind ours.
_DUE_AGO_MS = 86_400_000
_CALLS = "autos:calls"

# What arq's `enqueue_job` does in three round trips for each task, for many in one; and who waits is called.
# KEYS queue, and for each ring the key of its task. ARGV channel, ms to keep, when it is due in ms, and for
# each ring its id and its task.
_RING = """
local rung = 0
for i = 2, #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 0 then
        redis.call('PSETEX', KEYS[i], ARGV[2], ARGV[2 * i + 1])
        redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2 * i])
        rung = rung + 1
    end
end
if rung > 0 then redis.call('PUBLISH', ARGV[1], KEYS[1]) end
return rung
"""

log = logging.getLogger(__name__)


class Queue:
    """Rings arq's workers."""

    def __init__(self, redis: ArqRedis) -> None:
        self.redis = redis
        self._script = redis.register_script(_RING)
        self._away_until = 0.0

    async def ring_jobs(self, jobs: Iterable[tuple[UUID, int]]) -> bool:
        """Ring for pending jobs, each with its fence; False when Redis did not (the sweep will try again)."""
        # The id holds the fence: rings for one state of a row collapse into one, while the ring after
        # a claim that died is a new one, which arq would otherwise drop as already running.
        bucket = int(time.time()) // _RING_BUCKET_S
        rings = {f"{FETCH_PROCESS}:{job_id}:{fence}:{bucket}": job_id for job_id, fence in jobs}
        return await self._ring(FETCH_PROCESS, JOBS_QUEUE, rings)

    async def ring_destinations(self, destinations: Iterable[UUID]) -> bool:
        """Ring because something is due at these destinations; False when Redis did not."""
        # Each ring is one of its own: there may be more to do than the last one found.
        rings = {f"{DELIVER}:{uuid4()}": destination for destination in dict.fromkeys(destinations)}
        return await self._ring(DELIVER, DELIVERIES_QUEUE, rings)

    async def listen(self, called: dict[str, asyncio.Event]) -> None:
        """Set a queue's event whenever somebody rings there, for ever; while Redis is away nobody is called.

        A call that is missed is no loss: who waits for it looks by himself now and then.
        """
        while True:
            try:
                async with self.redis.pubsub(ignore_subscribe_messages=True) as calls:
                    await calls.subscribe(_CALLS)
                    while True:
                        if message := await calls.get_message(timeout=_CALL_WAIT_S):
                            called[message["data"].decode()].set()
            except REDIS_ERRORS as error:
                log.warning("redis calls nobody: %s", type(error).__name__)
                await asyncio.sleep(_AWAY_S)

    async def heard(self, queue: str, ring_id: str) -> None:
        """Take a ring off its queue as soon as its task has begun.

        PostgreSQL knows from here on whether there is work. arq alone would take it off at the task's end: a
        ring whose worker was killed would stay for hours, count as waiting, and keep the next one away.
        """
        try:
            with REDIS.of("heard"):
                async with asyncio.timeout(_RING_TIMEOUT_S):
                    async with self.redis.pipeline(transaction=True) as pipe:
                        pipe.zrem(queue, ring_id)
                        pipe.delete(*(prefix + ring_id for prefix in _ARQ_PREFIXES))
                        await pipe.execute()
        except REDIS_ERRORS as error:
            log.warning("redis kept a ring: %s", type(error).__name__)

    async def refuse_eviction(self) -> None:
        """Look at what Redis does when its memory is full; one that is away is not asked again.

        Raises:
            EvictingRedisError: it throws away keys, rings and the portal's shared limit among them.
        """
        try:
            async with asyncio.timeout(_RING_TIMEOUT_S):
                # Not CONFIG GET, which hosted servers forbid.
                memory = await self.redis.info("memory")
        except REDIS_ERRORS as error:
            log.warning("redis was not asked for its memory policy: %s", type(error).__name__)
            return
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if policy.startswith("allkeys"):
            raise EvictingRedisError(
                f"Redis has maxmemory-policy {policy}, which throws away waiting jobs when memory is full: "
                "set it to noeviction"
            )
        if policy != "noeviction":
            log.warning("redis has maxmemory-policy %s; noeviction is what Autos wants", policy)

    async def room(self, queue: str) -> int:
        """Return how many more rings it is worth to have waiting in a queue; 0 also when Redis is away."""
        try:
            with REDIS.of("room"):
                async with asyncio.timeout(_RING_TIMEOUT_S):
                    waiting: int = await self.redis.zcard(queue)
                    return max(0, _MOST_WAITING - waiting)
        except REDIS_ERRORS as error:
            log.warning("redis did not count a queue: %s", type(error).__name__)
            return 0

    async def check(self) -> None:
        """Ask Redis for a sign of life; raises one of `REDIS_ERRORS`."""
        async with asyncio.timeout(_RING_TIMEOUT_S):
            await self.redis.ping()

    async def _ring(self, task: str, queue: str, rings: dict[str, UUID]) -> bool:
        if not rings:
            return True
        if time.monotonic() < self._away_until:
            return False
        now_ms = int(time.time() * 1000)
        keys = [queue, *(job_key_prefix + ring_id for ring_id in rings)]
        told: list[str | int | bytes] = [_CALLS, _KEPT_MS, now_ms - _DUE_AGO_MS]
        for ring_id, row_id in rings.items():
            told += [ring_id, serialize_job(task, (str(row_id),), {}, None, now_ms, serializer=serialize)]
        try:
            with REDIS.of("ring"):
                async with asyncio.timeout(_RING_TIMEOUT_S):
                    await self._script(keys, told)
        except REDIS_ERRORS as error:
            log.warning("redis did not take %d rings for %s: %s", len(rings), task, type(error).__name__)
            # Not every caller is to wait for it.
            self._away_until = time.monotonic() + _AWAY_S
            return False
        return True


@asynccontextmanager
async def open_queue(settings: Settings) -> AsyncIterator[Queue]:
    """Open the pool of Redis connections; Redis itself may be away.

    Raises:
        EvictingRedisError: it must not be used as it is set up.
        ValueError: REDIS_URL is no URL of a Redis.
    """
    async with open_redis_pool(settings.redis_url.get_secret_value()) as pool:
        redis = ArqRedis(pool, job_serializer=serialize, job_deserializer=orjson.loads)
        queue = Queue(redis)
        try:
            await queue.refuse_eviction()
            yield queue
        finally:
            await redis.aclose()


def serialize(task: dict[str, Any]) -> bytes:
    """Write a task as JSON. arq's default is pickle, which would run what somebody put into Redis."""
    return orjson.dumps(task, default=repr)
