"""Real backends for every test: embedded ones, or those named by DATABASE_URL and REDIS_URL.

On a server that was given by URL the suite makes a database of its own and takes a Redis database that
is empty; both are gone afterwards and nothing else is touched.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from botocore.loaders import JSONFileLoader, Loader, create_loader
from redis.asyncio import Redis

from service.core.db import Connection, Database, open_database
from service.core.settings import Settings
from service.sandbox.postgres import open_postgres
from service.sandbox.redis import open_redis
from service.sandbox.s3 import S3Server, open_s3
from tests.databases import new_database
from tests.receiver import Receiver, open_receiver
from tests.rings import SECRET_KEYS
from tests.world import World, open_world

TABLES = """erasures, idempotency_keys, portal_tokens, canaries, delivery_attempts, deliveries, batch_items,
    batches, subscriptions, documents, job_events, jobs, turns, known_lists, processes, accesses,
    audit_log, signing_secrets, endpoints, sessions, api_keys, clients"""
_NAMES = TABLES.replace(",", "").split()
_APPEND_ONLY = ("accesses", "audit_log")
_EACH = "".join(
    f"if exists (select from {name}) then "
    f"{'truncate' if name in _APPEND_ONLY else 'delete from'} {name}; end if; "
    for name in _NAMES
)
# To truncate them all takes thirty times as long as to delete the few rows of a test.
_EMPTY = f"""do $$ begin
    if (select sum(pg_relation_size(oid)) > 1000000 from pg_class
        where relkind = 'r' and relnamespace = 'public'::regnamespace) then
        truncate {TABLES};
    end if;
    {_EACH}
    update chores set done_at = null;
end $$"""

MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session", autouse=True)
def _models_are_read_once() -> Iterator[None]:
    """botocore looks for its models and reads them anew for every client, longer than many a test."""
    read_once = cache(JSONFileLoader().load_file)
    look = Loader.list_available_services
    look_once = cache(lambda type_name: look(create_loader(), type_name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _, file_path: read_once(file_path))
        patch.setattr(Loader, "list_available_services", lambda _, type_name: look_once(type_name))
        yield


@pytest.fixture(scope="session")
async def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A server on which the suite may create databases."""
    if given := os.environ.get("DATABASE_URL"):
        yield given
    else:
        async with open_postgres(tmp_path_factory.mktemp("postgres"), durable=False) as url:
            yield url


@pytest.fixture(scope="session")
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """A database of the suite's own, with the schema."""
    async with new_database(postgres_url, name="autos_test") as url:
        yield url


@pytest.fixture(scope="session")
async def redis_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A Redis database that was empty."""
    if given := os.environ.get("REDIS_URL"):
        async with _empty_redis_database(given) as url:
            yield url
    else:
        async with open_redis(tmp_path_factory.mktemp("redis")) as url:
            yield url


@asynccontextmanager
async def _empty_redis_database(given: str) -> AsyncIterator[str]:
    # Suites side by side look at different ones: both would find the same one empty.
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    suites = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for number in range(15 - mine, 0, -suites):
        url = urlunsplit(urlsplit(given)._replace(path=f"/{number}"))
        async with Redis.from_url(url) as redis:
            if await redis.dbsize() == 0:
                try:
                    yield url
                finally:
                    await redis.flushdb()
                return
    pytest.fail("no empty database on the given Redis")


@pytest.fixture(scope="session")
async def s3_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    """A real S3 server on files."""
    async with open_s3(tmp_path_factory.mktemp("s3"), bucket="autos-test") as server:
        yield server


@pytest.fixture(scope="session")
def make_settings(database_url: str, redis_url: str, s3_server: S3Server) -> MakeSettings:
    """Make settings for the suite's backends, with short times; keyword arguments override."""

    def make(**overrides: Any) -> Settings:
        return Settings.model_validate(
            {
                "database_url": database_url,
                "redis_url": redis_url,
                "s3_endpoint_url": s3_server.endpoint_url,
                "aws_access_key_id": s3_server.access_key,
                "aws_secret_access_key": s3_server.secret_key,
                "aws_region": s3_server.region,
                "bucket": "autos-test",
                "portal_token": "portal-token",
                "portal_concurrency": 32,
                "portal_concurrency_start": 32,
                "portal_pause_s": 0.3,
                "portal_breaker_open_s": 0.3,
                "job_retry_delays_s": (0.1, 0.2),
                "quick_retry_wait_s": 0.01,
                "secret_keys": SECRET_KEYS,
                "webhook_allow_private": True,
                "webhook_retry_delays_s": (0.2, 0.2, 0.2),
                "sweep_interval_s": 0.1,
                "lease_s": 10.0,
                "drain_s": 2.0,
                "database_pool_size": 8,
                "worker_port": 0,
                **overrides,
            }
        )

    return make


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """The suite's settings."""
    return make_settings()


@pytest.fixture(scope="session")
async def _emptied(database_url: str) -> AsyncIterator[Connection]:
    conn = await asyncpg.connect(database_url)
    yield conn
    await conn.close()


@pytest.fixture
async def empty(_emptied: Connection, redis_url: str) -> None:
    await _emptied.execute(_EMPTY)
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()


@pytest.fixture
async def db(empty: None, settings: Settings) -> AsyncIterator[Database]:
    """An empty database."""
    async with open_database(settings) as opened:
        yield opened


@pytest.fixture
async def conn(db: Database) -> AsyncIterator[Connection]:
    """A connection to an empty database."""
    async with db.connection() as connection:
        yield connection


@pytest.fixture
async def world(empty: None, settings: Settings) -> AsyncIterator[World]:
    """A running Autos with one worker."""
    async with open_world(settings) as opened:
        yield opened


@pytest.fixture
async def api(empty: None, settings: Settings) -> AsyncIterator[World]:
    """A running Autos without a worker."""
    async with open_world(settings, with_worker=False) as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A webhook receiver on loopback."""
    async with open_receiver() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings in tests come from the test: no AUTOS_ variable and no .env of the developer's."""
    for name in os.environ:
        if name.startswith(("AUTOS_", "AWS_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
