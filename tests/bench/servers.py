"""The servers that every contender works on, and the processes of Autos over them."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
from pydantic import SecretStr

from service.core import clients
from service.core.db import open_database
from service.core.schema import upgrade
from service.core.settings import Settings
from service.sandbox.children import free_port
from service.sandbox.postgres import open_postgres
from service.sandbox.redis import open_redis
from service.sandbox.s3 import open_s3
from tests.bench.programs import Program, open_program
from tests.faults.children import environment
from tests.faults.members import until_it_listens
from tests.rings import RING, SECRET_KEYS

BUCKET = "autos-bench"
CLIENT = "acme"


@dataclass(frozen=True)
class Servers:
    """PostgreSQL with the schema, Redis and S3, each in processes of its own.

    Attributes:
        key: an API key of a client of Autos.
        bucket: the folder in which S3 keeps its objects.
    """

    settings: Settings
    key: str
    bucket: Path

    def environ(self, **settings: object) -> dict[str, str]:
        """Return the environment of a program; the arguments are settings of Autos'."""
        return environment(self.settings.model_copy(update=settings))

    def take_stock(self) -> tuple[int, int]:
        """Return how many objects there are, and their bytes."""
        sizes = [one.stat().st_size for one in self.bucket.rglob("*") if one.is_file()]
        return len(sizes), sum(sizes)


@asynccontextmanager
async def open_servers() -> AsyncIterator[Servers]:
    """Start them on new data in a folder that is gone afterwards."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(open_postgres(folder, durable=False))
        redis_url = await stack.enter_async_context(open_redis(folder, durable=False))
        await upgrade(url)
        settings = _settings(url, redis_url)
        without_store = Servers(settings, await create_key(settings), folder)
        yield await stack.enter_async_context(with_new_store(without_store))


@asynccontextmanager
async def with_new_store(servers: Servers) -> AsyncIterator[Servers]:
    """Start another S3 with an empty bucket beside the same other servers."""
    with tempfile.TemporaryDirectory() as folder:
        bucket = Path(folder) / "s3" / BUCKET
        (bucket / "limit").mkdir(parents=True)
        async with open_s3(Path(folder), bucket=BUCKET) as s3:
            at_store = {
                "s3_endpoint_url": s3.endpoint_url,
                "aws_access_key_id": s3.access_key,
                "aws_secret_access_key": SecretStr(s3.secret_key),
                "aws_region": s3.region,
            }
            settings = servers.settings.model_copy(update=at_store)
            yield replace(servers, settings=settings, bucket=bucket)


def _settings(database_url: str, redis_url: str) -> Settings:
    return Settings.model_validate(
        {
            "database_url": database_url,
            "redis_url": redis_url,
            "bucket": BUCKET,
            "portal_token": "portal-token",
            "secret_keys": SECRET_KEYS,
            "webhook_allow_private": True,
            "requests_per_minute": 100_000_000,
            "max_requests": 100_000,
            "max_active_jobs": 10_000_000,
            "drain_s": 0.5,
            "drain_notice_s": 0,
            "log_level": "WARNING",
            "log_requests": False,
            "worker_port": 0,
        }
    )


async def create_key(settings: Settings, client_name: str = CLIENT) -> str:
    """Write a client with a key and return the key."""
    key = clients.new_key()
    async with open_database(settings) as db, db.transaction() as conn:
        client, _ = await clients.ensure(conn, RING, client_name)
        await clients.add_key(conn, client.id, key)
    return key


@asynccontextmanager
async def open_portal(*, latency_s: float, documents: int, sizes: str) -> AsyncIterator[str]:
    """Start the stand-in portal; yields its address."""
    options = ("--latency-s", str(latency_s), "--documents", str(documents), "--sizes", sizes)
    async with open_program("-m", "tests.bench.portal", *options, environ={}) as portal:
        yield await portal.line()


@asynccontextmanager
async def open_api(servers: Servers, **settings: object) -> AsyncIterator[tuple[Program, int]]:
    """Run Autos' API; yields it and its port."""
    port = free_port()
    environ = servers.environ(port=port, **settings)
    async with open_program("-m", "service", environ=environ) as program:
        await until_it_listens(port)
        yield program, port


@asynccontextmanager
async def open_workers(servers: Servers, count: int = 1, **settings: object) -> AsyncIterator[list[Program]]:
    """Run so many worker processes of Autos."""
    async with AsyncExitStack() as stack:
        environ = servers.environ(**settings)
        yield [
            await stack.enter_async_context(open_program("-m", "worker", environ=environ))
            for _ in range(count)
        ]


@asynccontextmanager
async def connected(servers: Servers) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Open a connection of the benchmark's own to the database."""
    connection = await asyncpg.connect(servers.settings.database_url.get_secret_value())
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def open_bare_api(servers: Servers) -> AsyncIterator[tuple[Program, int]]:
    """Run the bare API over Autos' tables; yields it and its port."""
    port = free_port()
    command = ("-m", "tests.bench.baselines.bare_api", "--port", str(port))
    async with open_program(*command, environ=servers.environ(), ready="ready") as program:
        yield program, port
