"""The faults of a chaos run: each begins, lasts, and is healed."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import asyncpg
from redis.asyncio import Redis

from tests.faults.cluster import Cluster
from tests.faults.proxy import Mood

Fault: TypeAlias = Callable[[Cluster, random.Random, float], Awaitable[None]]
"""Begins, lasts for some seconds, and is over when it returns."""

_S3_SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>invented</Message></Error>'

END_CONNECTIONS = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'autos'"


def _answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _mood(name: str, mood: Mood, cluster: Cluster, _rng: random.Random, lasts_s: float) -> None:
    proxy = cluster.proxies[name]
    await proxy.set_mood(mood)
    await asyncio.sleep(lasts_s)
    await proxy.set_mood(Mood.THROUGH)


async def _reset(name: str, cluster: Cluster, _rng: random.Random, lasts_s: float) -> None:
    for _ in range(3):
        cluster.proxies[name].reset()
        await asyncio.sleep(lasts_s / 3)


async def _canned(name: str, answer: bytes, cluster: Cluster, rng: random.Random, lasts_s: float) -> None:
    proxy = cluster.proxies[name]
    proxy.canned = answer
    proxy.reset()
    await _mood(name, Mood.CANNED, cluster, rng, lasts_s)


async def _restart(name: str, cluster: Cluster, _rng: random.Random, lasts_s: float) -> None:
    backend = cluster.backends[name]
    await backend.stop()
    await asyncio.sleep(lasts_s / 2)
    await backend.start()


async def _signal(
    program: str, number: signal.Signals, cluster: Cluster, rng: random.Random, lasts_s: float
) -> None:
    rng.choice(cluster.members_of(program)).signal(number)
    await asyncio.sleep(lasts_s)


async def _stop(program: str, cluster: Cluster, rng: random.Random, lasts_s: float) -> None:
    """Stop a process for longer than its lease, then let it go on as if nothing had been."""
    member = rng.choice(cluster.members_of(program))
    member.signal(signal.SIGSTOP)
    await asyncio.sleep(lasts_s + (cluster.settings.lease_s if program == "worker" else 0))
    member.signal(signal.SIGCONT)


async def _wipe_redis(cluster: Cluster, _rng: random.Random, lasts_s: float) -> None:
    async with Redis.from_url(cluster.backends["redis"].url) as redis:
        await redis.flushall()
    await asyncio.sleep(lasts_s / 2)


async def _end_connections(cluster: Cluster, _rng: random.Random, lasts_s: float) -> None:
    conn = await asyncpg.connect(cluster.backends["postgres"].url)
    await conn.execute(END_CONNECTIONS)
    await conn.close()
    await asyncio.sleep(lasts_s / 2)


async def _make_read_only(cluster: Cluster, _rng: random.Random, lasts_s: float) -> None:
    """As a standby is after a failover that went to the wrong side."""
    conn = await asyncpg.connect(cluster.backends["postgres"].url)
    for is_over, value in ((False, "on"), (True, "off")):
        await conn.execute(f"alter database autos set default_transaction_read_only = {value}")
        await conn.execute("set default_transaction_read_only = off")
        await conn.execute(END_CONNECTIONS)
        if not is_over:
            await asyncio.sleep(lasts_s)
    await conn.close()


async def _expire_token(cluster: Cluster, _rng: random.Random, lasts_s: float) -> None:
    token = cluster.portal.token
    cluster.portal.token = "another"
    await asyncio.sleep(lasts_s)
    cluster.portal.token = token


FAULTS: dict[str, Fault] = {
    **{
        f"{name} {word}": partial(_mood, name, mood)
        for name in ("postgres", "redis", "s3", "portal", "receivers")
        for word, mood in (("refused", Mood.REFUSED), ("silent", Mood.SILENT), ("answers lost", Mood.DEAF))
    },
    **{f"{name} reset": partial(_reset, name) for name in ("postgres", "redis", "s3", "portal", "receivers")},
    **{f"{name} restarted": partial(_restart, name) for name in ("postgres", "redis", "s3")},
    "s3 slow down": partial(_canned, "s3", _answer("503 Slow Down", _S3_SLOW_DOWN)),
    "s3 error in a 200": partial(_canned, "s3", _answer("200 OK", _S3_SLOW_DOWN)),
    "portal 503": partial(_canned, "portal", _answer("503 Service Unavailable")),
    "portal 429": partial(_canned, "portal", _answer("429 Too Many Requests", b"", "Retry-After: 1")),
    "portal token expired": _expire_token,
    "receivers 500": partial(_canned, "receivers", _answer("500 Internal Server Error")),
    "redis wiped": _wipe_redis,
    "postgres connections ended": _end_connections,
    "postgres read-only": _make_read_only,
    **{
        f"{word} {how}": partial(_signal, program, number)
        for word, program in (("api", "service"), ("worker", "worker"))
        for how, number in (("killed", signal.SIGKILL), ("deployed", signal.SIGTERM))
    },
    "api stopped": partial(_stop, "service"),
    "worker stopped": partial(_stop, "worker"),
}
