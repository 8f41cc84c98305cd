"""Requests to the URLs that callers give us, none of which reaches a private place.

The address is judged three times: the URL's text before anything happens, every address that DNS gives,
and the address of each socket as it is made. The last is the gate that cannot be walked around: an
address written in the URL never comes past the resolver.
"""

import asyncio
import errno
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType

from service import __version__
from service.core.addresses import Destination, OutboundPolicy, parse_destination
from service.core.errors import AutosError
from service.core.settings import Settings

__all__ = [
    "DeliveryFailedError",
    "Destination",
    "Outbound",
    "OutboundPolicy",
    "Reply",
    "guarded_connector",
    "open_outbound",
    "parse_destination",
]

Kind: TypeAlias = Literal["timeout", "connection", "tls", "refused_destination", "dns", "protocol", "busy"]

CONNECT_TIMEOUT_S = 5.0
LOOKUP_TIMEOUT_S = 5.0
REQUESTS_PER_ENDPOINT = 5
TURN_TIMEOUT_S = 0.25
KEPT_BODY_BYTES = 1024

# A short body is read to its end, so that a well-behaved receiver does not see its connection reset.
_READ_BODY_BYTES = 16 * 1024
_READ_BODY_S = 2.0
# Look-ups of dead names hold their thread long after we gave up on them.
_SPARE_LOOKUP_THREADS = 14

# A time-out and a closed port read the same: the difference would make us somebody's port scanner.
_NO_ANSWER = "the destination did not answer"
# So do a name that nobody knows and one that leads inside: the difference would tell the names of a network.
_NO_ADDRESS = "the destination is not allowed, or its name has no address"
_PUBLIC_WORDS: Mapping[Kind, str] = {
    "timeout": _NO_ANSWER,
    "connection": _NO_ANSWER,
    "tls": "no trusted TLS connection to the destination could be made",
    "refused_destination": _NO_ADDRESS,
    "dns": _NO_ADDRESS,
    "protocol": "the destination did not answer with proper HTTP",
    "busy": "too many requests to the destination are under way already",
}


class DeliveryFailedError(AutosError):
    """No reply came. The message is fit for callers; `kind` is for our own decisions and the log."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(_PUBLIC_WORDS[kind])
        self.kind: Kind = kind


class ForbiddenAddressError(OSError):
    """The policy does not allow the address; an `OSError` because that is what a connector expects."""


@dataclass(frozen=True)
class Reply:
    """What the receiver answered, whatever its status; redirects are not followed.

    `body` holds the first 1,024 bytes as text, `duration_s` runs from the start to the status line.
    """

    status: int
    retry_after_s: float | None
    body: str
    duration_s: float


@dataclass
class Timing:
    """How long the look-up and the connection (with TLS) of one request took; None what did not happen."""

    dns_s: float | None = None
    connect_s: float | None = None


class Outbound:
    """A client for callers' URLs: each request resolved, checked and connected anew."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        policy: OutboundPolicy,
        *,
        per_endpoint: int = REQUESTS_PER_ENDPOINT,
    ) -> None:
        self.policy = policy
        self._session = session
        self._turns = _Turns(per_endpoint)

    @asynccontextmanager
    async def turn(self, url: str, *, within_s: float = TURN_TIMEOUT_S) -> AsyncIterator[None]:
        """Hold one of the few turns at the URL's endpoint, whatever is sent meanwhile.

        Nobody waits here for long: a receiver that hangs would otherwise hold places which others need.

        Raises:
            DestinationRefusedError: the URL itself may not be called.
            DeliveryFailedError: `busy`, no turn came.
        """
        to = parse_destination(url, self.policy)
        async with self._turns.take(to.host, to.port, within_s=within_s):
            yield

    async def post(self, url: str, *, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Reply:
        """Send the body once; the caller has a turn at the endpoint, and the time-out covers everything.

        Raises:
            DestinationRefusedError: the URL itself may not be called.
            DeliveryFailedError: no reply came, or the name leads to an address that may not be called.
        """
        return await self._request("POST", url, timeout_s=timeout_s, body=body, headers=headers)

    async def probe(self, url: str, *, timeout_s: float, timing: "Timing | None" = None) -> Reply:
        """Ask with HEAD whether anything answers there; otherwise as `post`.

        Args:
            timing: is told how long each step took.
        """
        return await self._request("HEAD", url, timeout_s=timeout_s, timing=timing)

    async def _request(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timing: "Timing | None" = None,
    ) -> Reply:
        to = parse_destination(url, self.policy)
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline = started + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._session.request(
                    method,
                    to.url,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=timing,
                )
        except (aiohttp.ClientError, OSError) as error:
            raise DeliveryFailedError(_kind(error)) from error
        duration_s = loop.time() - started
        # From here on nothing fails: the receiver has said what it has to say.
        try:
            text = await _first_text(response, until=min(deadline, loop.time() + _READ_BODY_S))
        finally:
            response.close()
        wait_s = _retry_after_s(response.headers.get("Retry-After", ""), now=datetime.now(UTC))
        return Reply(response.status, wait_s, text, duration_s)


@dataclass
class _Endpoint:
    turns: asyncio.Semaphore
    users: int = 0


class _Turns:
    """A bounded number of requests at once to one endpoint; an endpoint at rest takes no memory."""

    def __init__(self, per_endpoint: int) -> None:
        self._per_endpoint = per_endpoint
        self._endpoints: dict[tuple[str, int], _Endpoint] = {}

    @asynccontextmanager
    async def take(self, host: str, port: int, *, within_s: float) -> AsyncIterator[None]:
        key = (host, port)
        endpoint = self._endpoints.setdefault(key, _Endpoint(asyncio.Semaphore(self._per_endpoint)))
        endpoint.users += 1
        try:
            try:
                async with asyncio.timeout(within_s):
                    await endpoint.turns.acquire()
            except TimeoutError as error:
                raise DeliveryFailedError("busy") from error
            try:
                yield
            finally:
                endpoint.turns.release()
        finally:
            endpoint.users -= 1
            if not endpoint.users:
                del self._endpoints[key]


class _SystemResolver(AbstractResolver):
    """The system's DNS on threads of its own: dead names must not hold up the rest of the process.

    Args:
        absolute: ask for exactly the name, so that no search domain of this machine is tried.
    """

    def __init__(self, *, threads: int, absolute: bool) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="webhook-dns")
        self._absolute = absolute

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        name = f"{host}." if self._absolute else host
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(name, port, family=family, type=socket.SOCK_STREAM)
        )
        return [
            ResolveResult(hostname=host, host=str(to[0]), port=port, family=of, proto=proto, flags=0)
            for of, _, proto, _, to in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _GuardedResolver(AbstractResolver):
    """Another resolver's answers, if the policy allows every single address of the name."""

    def __init__(self, resolver: AbstractResolver, policy: OutboundPolicy) -> None:
        self._resolver = resolver
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            found = await self._resolver.resolve(host, port, family)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        if not all(self._policy.allows(result["host"]) for result in found):
            raise ForbiddenAddressError(errno.EACCES, "the name has an address that may not be called")
        return found

    async def close(self) -> None:
        """The wrapped resolver belongs to whoever opened it."""


def guarded_connector(policy: OutboundPolicy, resolver: AbstractResolver) -> aiohttp.TCPConnector:
    """A connector that makes no socket to an address outside the policy, and keeps no connection."""
    return aiohttp.TCPConnector(
        resolver=_GuardedResolver(resolver, policy),
        socket_factory=_guarded_sockets(policy),
        use_dns_cache=False,
        force_close=True,
        limit=0,
        ssl=_tls(),
    )


@cache
def _tls() -> ssl.SSLContext:
    """The machine's trusted authorities take 0.1 s to read: once in a process."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _guarded_sockets(policy: OutboundPolicy) -> Callable[[AddrInfoType], socket.socket]:
    def make_socket(to: AddrInfoType) -> socket.socket:
        family, kind, proto, _, address = to
        if not policy.allows(str(address[0])):
            raise ForbiddenAddressError(errno.EACCES, "the address may not be called")
        return socket.socket(family, kind, proto)

    return make_socket


@asynccontextmanager
async def open_outbound(
    settings: Settings, *, resolver: AbstractResolver | None = None
) -> AsyncIterator[Outbound]:
    """Open the client under the operator's policy; a resolver that is given is guarded like our own."""
    policy = OutboundPolicy.from_settings(settings)
    own = _SystemResolver(
        threads=settings.deliveries_per_worker + _SPARE_LOOKUP_THREADS, absolute=not policy.allow_private
    )
    try:
        async with _open_session(guarded_connector(policy, resolver or own)) as session:
            yield Outbound(session, policy)
    finally:
        await own.close()


def _open_session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    """A session that remembers nothing, unpacks nothing and heeds no proxy variables."""
    return aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": f"Autos/{__version__} (webhooks)", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[_timed()],
        trust_env=False,
        auto_decompress=False,
        read_bufsize=_READ_BODY_BYTES,
        max_line_size=8190,
        max_field_size=8190,
        max_headers=128,
        # The whole is timed by `Outbound`, which knows when the status line has come.
        timeout=aiohttp.ClientTimeout(
            total=None, connect=LOOKUP_TIMEOUT_S + CONNECT_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S
        ),
    )


def _timed() -> aiohttp.TraceConfig:
    """Tell the `Timing` of a request, if it has one."""

    async def begin(_session: object, context: SimpleNamespace, _step: object) -> None:
        context.since = time.monotonic()

    async def note_dns(_session: object, context: SimpleNamespace, _step: object) -> None:
        if timing := context.trace_request_ctx:
            timing.dns_s = time.monotonic() - context.since
            context.since = time.monotonic()

    async def note_connection(_session: object, context: SimpleNamespace, _step: object) -> None:
        if timing := context.trace_request_ctx:
            timing.connect_s = time.monotonic() - context.since

    trace = aiohttp.TraceConfig()
    # The look-up is a part of making the connection.
    trace.on_connection_create_start.append(begin)
    trace.on_dns_resolvehost_end.append(note_dns)
    trace.on_connection_create_end.append(note_connection)
    return trace


def _kind(error: Exception) -> Kind:
    cause: Any = getattr(error, "os_error", error)
    if isinstance(cause, ForbiddenAddressError):
        return "refused_destination"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(cause, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientSSLError):
        return "tls"
    return "connection" if isinstance(error, aiohttp.ClientConnectionError | OSError) else "protocol"


async def _first_text(response: aiohttp.ClientResponse, *, until: float) -> str:
    """The start of the body as text, or as much of it as came by `until` (the loop's clock)."""
    found = bytearray()
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout_at(until):
            while len(found) < _READ_BODY_BYTES and (
                part := await response.content.read(_READ_BODY_BYTES - len(found))
            ):
                found += part
    # PostgreSQL holds no NUL in a text.
    text = found[:KEPT_BODY_BYTES].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    # What was put in the place of bad bytes is longer than they were.
    return text.encode()[:KEPT_BODY_BYTES].decode("utf-8", "ignore")


def _retry_after_s(value: str, *, now: datetime) -> float | None:
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    # A date that names no zone ("-0000") is UTC.
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())
