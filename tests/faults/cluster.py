"""A whole Autos for fault runs: its own backends, each behind a proxy, some APIs and some workers."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from service.core.schema import upgrade
from service.core.settings import Settings
from service.sandbox.children import free_port
from service.sandbox.portal import PortalState
from service.sandbox.postgres import open_postgres
from service.sandbox.redis import open_redis
from service.sandbox.s3 import S3Server, open_s3
from tests.faults.evidence import Evidence
from tests.faults.members import Member, open_supervised
from tests.faults.observers import open_receivers
from tests.faults.proxy import FaultProxy, open_proxy
from tests.rings import SECRET_KEYS
from tests.world import open_portal_stand_in

BUCKET = "autos-chaos"


@dataclass(frozen=True)
class Place:
    """Where a process is to live.

    Attributes:
        program: `service` or `worker`.
        address: its host's own.
        enter: the command that runs another one on that host; none for this one.
    """

    program: str
    name: str
    address: str = "127.0.0.1"
    enter: Sequence[str] = ()


TWO_OF_EACH = tuple(Place(program, f"{program}-{n}") for program in ("service", "worker") for n in (1, 2))


class Backend:
    """A server of our own that can be restarted behind its proxy, where callers find it again."""

    def __init__(self, open_it: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._open = open_it
        self._stack = AsyncExitStack()
        self.opened: Any = None
        self.proxy: FaultProxy | None = None

    async def start(self) -> None:
        """Start it; the proxy, if there is one, leads to its new port."""
        self.opened = await self._stack.enter_async_context(self._open())
        if self.proxy:
            self.proxy.target = self.port

    async def restart(self) -> None:
        """Stop it and start it again on the same folder."""
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """Stop it."""
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """Its own address."""
        return self.opened.endpoint_url if isinstance(self.opened, S3Server) else str(self.opened)

    @property
    def port(self) -> int:
        """Its own port."""
        return _port(self.url)

    @property
    def proxied_url(self) -> str:
        """Its address by way of the proxy."""
        assert self.proxy is not None
        return _by_way_of(self.url, self.proxy)


@dataclass
class Cluster:
    """What runs; everything that talks to something else does so through a proxy.

    Attributes:
        receivers: the port of the receivers behind their proxy.
    """

    settings: Settings
    backends: dict[str, Backend]
    proxies: dict[str, FaultProxy]
    members: list[Member]
    portal: PortalState
    evidence: Evidence

    @property
    def api_urls(self) -> list[str]:
        """Where the API processes listen."""
        return [
            f"http://{member.settings.host}:{member.settings.port}"
            for member in self.members
            if member.program == "service"
        ]

    def members_of(self, program: str) -> list[Member]:
        """The processes of one kind."""
        return [member for member in self.members if member.program == program]


@asynccontextmanager
async def open_cluster(
    folder: Path,
    *,
    token: str = "portal-token",
    latency_s: float = 0.01,
    places: Sequence[Place] = TWO_OF_EACH,
    address: str = "127.0.0.1",
    changes: Mapping[str, object] | None = None,
) -> AsyncIterator[Cluster]:
    """Start everything and wait until the APIs answer; end everything with the block.

    Args:
        latency_s: how long the portal thinks.
        address: ours, by which all places reach backends, portal and receivers.
        changes: settings that differ from those of the fault runs.
    """
    evidence = Evidence()
    async with AsyncExitStack() as stack:
        backends, proxies = await _open_backends(stack, folder, address)
        portal_url, portal = await stack.enter_async_context(open_portal_stand_in(latency_s))
        receivers = await stack.enter_async_context(open_receivers(evidence))
        for name, port in (("portal", _port(portal_url)), ("receivers", receivers)):
            proxies[name] = await stack.enter_async_context(open_proxy(port, address=address))
        settings = _settings(backends, _by_way_of(portal_url, proxies["portal"]), token)
        settings = settings.model_copy(update=dict(changes or {}))
        members = [
            Member(place.program, _own(settings, place), folder / f"{place.name}.log", enter=place.enter)
            for place in places
        ]
        evidence.logs.extend(member.log for member in members)
        evidence.secrets.extend(_secrets(settings))
        await stack.enter_async_context(open_supervised(members))
        yield Cluster(settings, backends, proxies, members, portal, evidence)


async def _open_backends(
    stack: AsyncExitStack, folder: Path, address: str
) -> tuple[dict[str, Backend], dict[str, FaultProxy]]:
    backends = {
        "postgres": Backend(partial(open_postgres, folder / "postgres")),
        # What it held is gone when it starts again.
        "redis": Backend(partial(open_redis, folder / "redis", durable=False)),
        "s3": Backend(partial(open_s3, folder / "s3", bucket=BUCKET)),
    }
    proxies = {}
    for name, backend in backends.items():
        await backend.start()
        stack.push_async_callback(backend.stop)
        backend.proxy = proxies[name] = await stack.enter_async_context(
            open_proxy(backend.port, address=address)
        )
    await upgrade(backends["postgres"].url)
    return backends, proxies


def _settings(backends: dict[str, Backend], portal_url: str, token: str) -> Settings:
    s3 = backends["s3"].opened
    return Settings.model_validate(
        {
            "database_url": backends["postgres"].proxied_url,
            "redis_url": backends["redis"].proxied_url,
            "s3_endpoint_url": backends["s3"].proxied_url,
            "aws_access_key_id": s3.access_key,
            "aws_secret_access_key": s3.secret_key,
            "aws_region": s3.region,
            "bucket": BUCKET,
            "portal_url": portal_url,
            "portal_token": token,
            "portal_concurrency": 16,
            "portal_concurrency_start": 16,
            "portal_read_timeout_s": 3.0,
            "portal_pause_s": 0.5,
            "portal_breaker_open_s": 0.5,
            "fresh_s": 2,
            "lease_s": 3.0,
            "sweep_interval_s": 0.2,
            "job_deadline_s": 60,
            "job_retry_delays_s": (0.3, 0.6, 1.0, 2.0, 2.0, 2.0),
            "quick_retry_wait_s": 0.05,
            "max_crashes": 5,
            "drain_s": 2.0,
            "secret_keys": SECRET_KEYS,
            "webhook_allow_private": True,
            "webhook_timeout_s": 2.0,
            "webhook_pause_s": 1.0,
            "webhook_retry_delays_s": (0.3, 0.5, *[1.0] * 60),
        }
    )


def _own(settings: Settings, place: Place) -> Settings:
    """Give a process a port of its own, on its host's address."""
    prefix = "worker_" if place.program == "worker" else ""
    return settings.model_copy(update={f"{prefix}host": place.address, f"{prefix}port": free_port()})


def _secrets(settings: Settings) -> list[str]:
    urls = (settings.database_url, settings.redis_url)
    passwords = [urlsplit(url.get_secret_value()).password for url in urls]
    given = (settings.aws_secret_access_key, settings.portal_token)
    return [one.get_secret_value() for one in given if one] + [word for word in passwords if word]


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _by_way_of(url: str, proxy: FaultProxy) -> str:
    parts = urlsplit(url)
    place = f"{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(place, f"{proxy.address}:{proxy.port}")))
