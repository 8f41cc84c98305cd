"""What tests ask of erasures: the time that passes, and where a text can still be found."""

from collections.abc import AsyncIterator, Collection
from uuid import UUID

from redis.asyncio import Redis

from service.core.db import Connection
from service.core.settings import Settings
from tests.s3 import open_client
from tests.world import Caller, World

ERASER = ("read", "write", "erase")


async def erased(caller: Caller, number: str, **params: str) -> UUID:
    """Erase a process; return the erasure's id."""
    answer = await caller.call("DELETE", f"/processes/{number}", params=params)
    assert answer.status == 202, answer.text
    return UUID(answer.json["id"])


async def let_time_pass(world: World) -> None:
    """Let the leases of all workers of erased jobs have ended, and more."""
    async with world.db.connection() as conn:
        await conn.execute(
            "update erasures set quiet_at = now(), next_look_at = now() where finished_at is null"
        )


async def finished(world: World, erasure_id: UUID) -> None:
    """Wait until an erasure is finished, on a clock that goes fast."""
    await let_time_pass(world)
    await world.until("select finished_at is not null from erasures where id = $1", erasure_id)


async def where_found(world: World, needles: Collection[str]) -> dict[str, set[str]]:
    """Return for each text the places that hold it: every column, Redis and S3 are searched."""
    found: dict[str, set[str]] = {needle: set() for needle in needles}
    raw = {needle: needle.encode() for needle in needles}
    async with world.db.connection() as conn:
        async for place, value in _values(conn):
            for needle in needles:
                if raw[needle] in value:
                    found[needle].add(place)
    for place, value in [*await _in_redis(world.settings), *await _in_s3(world.settings)]:
        for needle in needles:
            if raw[needle] in value:
                found[needle].add(place)
    return found


async def _values(conn: Connection) -> AsyncIterator[tuple[str, bytes]]:
    columns = await conn.fetch(
        """select table_name, column_name, data_type from information_schema.columns
           where table_schema = 'public' order by table_name, ordinal_position"""
    )
    assert len(columns) > 150
    for table, column, kind in columns:
        what = f'"{column}"' if kind == "bytea" else f"convert_to(\"{column}\"::text, 'UTF8')"
        for row in await conn.fetch(f'select {what} from "{table}" where "{column}" is not null'):
            yield f"{table}.{column}", row[0]


async def _in_redis(settings: Settings) -> list[tuple[str, bytes]]:
    found = []
    async with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        async for key in redis.scan_iter():
            found.append(("redis key", key))
            kind = await redis.type(key)
            read = {
                b"string": redis.get,
                b"hash": redis.hgetall,
                b"set": redis.smembers,
                b"zset": lambda name: redis.zrange(name, 0, -1),
                b"list": lambda name: redis.lrange(name, 0, -1),
                b"none": redis.get,  # it has run out since
            }[kind]
            found.append((f"redis {key!r}", repr(await read(key)).encode()))
    return found


async def _in_s3(settings: Settings) -> list[tuple[str, bytes]]:
    async with open_client(settings) as s3:
        keys = [
            one["Key"]
            async for page in s3.get_paginator("list_objects_v2").paginate(Bucket=settings.bucket)
            for one in page.get("Contents", ())
        ]
    return [("s3 key", key.encode()) for key in keys]
