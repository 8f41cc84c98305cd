"""Redis over TLS, and as the master that Sentinels name: real servers, and one that dies."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.core.queue import JOBS_QUEUE, REDIS_ERRORS, open_queue
from service.core.redis_client import open_redis_pool
from service.sandbox.binaries import find_redis
from service.sandbox.children import Child, Program, free_port, open_child, open_server
from service.sandbox.state import SandboxError
from tests.certificates import Certificate, make_certificate
from tests.conftest import MakeSettings
from tests.faults.proxy import open_proxy
from tests.world import World, open_world

PASSWORD = "p%40ss%3Aw%2Frd"
PLAIN_PASSWORD = "p@ss:w/rd"
CASES = ("1003579-22.2025.8.26.0564", "1000145-91.2023.8.26.0597")


def _program(folder: Path, port: int, *lines: str, sentinel: bool = False) -> Program:
    config = folder / f"{port}.conf"
    config.write_text("\n".join((f"dir {folder}", *lines, "")))
    command = [str(find_redis().path), str(config), *(["--sentinel"] if sentinel else [])]
    return Program(
        name="Redis", command=command, environ={"PATH": os.defpath}, cwd=folder, log=folder / f"{port}.log"
    )


async def _until(is_so: Callable[[str], Awaitable[bool]], url: str) -> None:
    async with asyncio.timeout(30):
        while not await is_so(url):
            await asyncio.sleep(0.02)


async def _answers(url: str) -> bool:
    async with open_redis_pool(url) as pool:
        try:
            return bool(await Redis(connection_pool=pool).ping())
        except RedisError:
            return False


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """A certificate for 127.0.0.1."""
    return make_certificate(tmp_path)


@pytest.fixture
async def tls_port(tmp_path: Path, certificate: Certificate) -> AsyncIterator[int]:
    """The port of a Redis that speaks TLS and wants a password."""

    def program_at(port: int) -> Program:
        return _program(
            tmp_path, port,
            "bind 127.0.0.1", "port 0", f"tls-port {port}", "tls-auth-clients no",
            f"tls-cert-file {certificate.path}", f"tls-key-file {certificate.key_path}",
            f"tls-ca-cert-file {certificate.path}", f'requirepass "{PLAIN_PASSWORD}"', 'save ""',
        )  # fmt: skip

    def ready(port: int) -> object:
        return _answers(f"rediss://:{PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={certificate.path}")

    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(open_server(program_at, ready=ready))  # type: ignore[arg-type]
        except SandboxError as error:
            if "tls" not in str(error):
                raise
            pytest.skip("this Redis was built without TLS, as that of the wheel is")
        yield port


async def test_redis_is_reached_over_tls_with_a_password_when_its_certificate_is_known(
    tls_port: int, certificate: Certificate, tmp_path: Path, make_settings: MakeSettings
) -> None:
    url = f"rediss://:{PASSWORD}@127.0.0.1:{tls_port}/3?ssl_ca_certs={certificate.path}"
    async with open_queue(make_settings(redis_url=url)) as queue:
        await queue.check()
        assert (await queue.redis.client_info())["db"] == 3
    (tmp_path / "another").mkdir()
    stranger = make_certificate(tmp_path / "another")
    for refused in (
        url.replace(str(certificate.path), str(stranger.path)),  # signed by nobody who is known
        url.replace("127.0.0.1", "localhost"),  # for another name
        url.replace("rediss:", "redis:").partition("?")[0],  # in clear text
        url.replace(PASSWORD, "wrong"),
    ):
        async with open_queue(make_settings(redis_url=refused)) as queue:
            with pytest.raises(REDIS_ERRORS):
                await queue.check()


@dataclass(frozen=True)
class Watched:
    """A master, its replica, and the Sentinel that watches both; by their ports."""

    sentinel_port: int
    children: dict[int, Child]

    @property
    def url(self) -> str:
        """The URL for Autos; the first of the two Sentinels does not live."""
        sentinels = f"127.0.0.1:1,127.0.0.1:{self.sentinel_port}"
        return f"redis+sentinel://:{PASSWORD}@{sentinels}/autos/2?sentinel_password=watch"

    async def master_port(self) -> int:
        """The port of the one that is the master now."""
        async with Redis(port=self.sentinel_port, password="watch") as sentinel:
            _, port = await sentinel.sentinel_get_master_addr_by_name("autos")  # type: ignore[no-untyped-call]
            return int(port)


@asynccontextmanager
async def _open_watched(folder: Path) -> AsyncIterator[Watched]:
    login = (f'requirepass "{PLAIN_PASSWORD}"', f'masterauth "{PLAIN_PASSWORD}"')
    own = ("bind 127.0.0.1", 'save ""', "repl-diskless-sync-delay 0", *login)
    async with AsyncExitStack() as stack:
        children = dict[int, Child]()
        replicated: tuple[str, ...] = ()
        for _ in range(2):
            port = free_port()
            program = _program(folder, port, f"port {port}", *own, *replicated)
            children[port] = await stack.enter_async_context(open_child(program))
            replicated = replicated or (f"replicaof 127.0.0.1 {port}",)
        # Who is no replica yet when the Sentinel looks for the first time is found ten seconds later.
        await _until_replicated([*children][-1])

        def sentinel_at(port: int) -> Program:
            master = next(iter(children))
            return _program(
                folder, port,
                "bind 127.0.0.1", f"port {port}", "requirepass watch",
                f"sentinel monitor autos 127.0.0.1 {master} 1",
                f'sentinel auth-pass autos "{PLAIN_PASSWORD}"',
                "sentinel down-after-milliseconds autos 1000",
                "sentinel failover-timeout autos 5000",
                sentinel=True,
            )  # fmt: skip

        port = await stack.enter_async_context(open_server(sentinel_at, ready=_sees_a_replica))
        yield Watched(port, children)


async def _until_replicated(port: int) -> None:
    async with asyncio.timeout(30), Redis(port=port, password=PLAIN_PASSWORD) as replica:
        while True:
            with suppress(RedisError):
                if (await replica.info("replication"))["master_link_status"] == "up":
                    return
            await asyncio.sleep(0.02)


async def _sees_a_replica(sentinel_port: int) -> bool:
    async with Redis(port=sentinel_port, password="watch", decode_responses=True) as sentinel:
        try:
            replicas = await sentinel.sentinel_slaves("autos")  # type: ignore[no-untyped-call]
        except RedisError:
            return False
        return any(one.get("master-link-status") == "ok" for one in replicas)


async def _completes(world: World, number: str) -> bool:
    caller = await world.caller()
    accepted = await caller.post("/jobs", json={"process_number": number})
    assert accepted.status == 202, accepted.text
    final = await caller.wait_until_final(number)
    return bool(final["status"] == "completed" and final["total_documents"])


async def test_jobs_go_on_when_the_master_dies_and_a_sentinel_names_another(
    empty: None, tmp_path: Path, make_settings: MakeSettings
) -> None:
    async with _open_watched(tmp_path) as redis, open_world(make_settings(redis_url=redis.url)) as world:
        assert await _completes(world, CASES[0])
        first = await redis.master_port()
        redis.children[first].kill()
        # Accepted while there is no master, and rung for as soon as there is one.
        assert await _completes(world, CASES[1])
        assert await redis.master_port() != first


async def test_rings_reach_the_new_master_though_the_old_one_lives_on_as_its_replica(
    tmp_path: Path, make_settings: MakeSettings
) -> None:
    ports = (free_port(), free_port())
    async with AsyncExitStack() as stack:
        for port in ports:
            program = _program(tmp_path, port, "bind 127.0.0.1", f"port {port}", 'save ""')
            await stack.enter_async_context(open_child(program))
            await _until(_answers, f"redis://127.0.0.1:{port}/0")
        name = await stack.enter_async_context(open_proxy(ports[0]))
        settings = make_settings(redis_url=f"redis://127.0.0.1:{name.port}/0")
        queue = await stack.enter_async_context(open_queue(settings))
        assert await queue.ring_jobs([(uuid4(), 1)])
        old, new = [await stack.enter_async_context(Redis(port=port)) for port in ports]
        await old.execute_command("REPLICAOF", "127.0.0.1", str(ports[1]))  # type: ignore[no-untyped-call]
        name.target = ports[1]
        assert await queue.ring_jobs([(uuid4(), 1)])
        assert await new.zcard(JOBS_QUEUE) == 1


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host:26379",
        "redis+sentinel:///autos/0",
        "redis+sentinel://a,,b/autos",
        "http://host",
    ],
)
async def test_a_url_that_leads_to_no_redis_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"Sentinel|scheme") as refused:
        async with open_redis_pool(url):
            pass
    assert url not in str(refused.value)
