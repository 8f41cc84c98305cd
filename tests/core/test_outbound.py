"""Requests to callers' URLs, against real servers on loopback and names that a test makes up."""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from service.core.addresses import OutboundPolicy
from service.core.errors import DestinationRefusedError
from service.core.outbound import (
    REQUESTS_PER_ENDPOINT,
    DeliveryFailedError,
    Reply,
    guarded_connector,
    open_outbound,
)
from service.core.sending import Try
from service.core.settings import Settings
from tests.wire import answer_nothing, answering, open_wire
from tests.world import until

SANDBOX = Settings(webhook_allow_private=True)
PUBLIC_ADDRESS = "8.8.4.4"  # never connected to: each test that names it is refused before


class MadeUpDNS(AbstractResolver):
    """Names that exist only here; `answers` holds one list of addresses for each look-up, the last stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {f"{label}.escritorio.com.br": lists for label, lists in answers.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        assert family == socket.AF_UNSPEC
        lists = self.answers[host]
        addresses = lists.pop(0) if len(lists) > 1 else lists[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


OK = answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nobrig")


@asynccontextmanager
async def open_site(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A receiver on aiohttp; yields its address without a path."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def post(
    url: str,
    *,
    settings: Settings = SANDBOX,
    dns: MadeUpDNS | None = None,
    timeout_s: float = 10,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    async with open_outbound(settings, resolver=dns) as outbound:
        return await outbound.post(url, body=b"{}", headers=headers or {}, timeout_s=timeout_s)


async def failure(
    url: str, *, settings: Settings = SANDBOX, dns: MadeUpDNS | None = None, timeout_s: float = 10
) -> DeliveryFailedError:
    with pytest.raises(DeliveryFailedError) as caught:
        await post(url, settings=settings, dns=dns, timeout_s=timeout_s)
    return caught.value


# The gate ------------------------------------------------------------------------------------------


def strict_with(port: int) -> Settings:
    """The strict policy, with the port of a test's server opened as an operator would."""
    return Settings(webhook_allow_private=False, webhook_ports=(443, port))


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        [PUBLIC_ADDRESS, "127.0.0.1"],
        ["127.0.0.1", PUBLIC_ADDRESS],
        ["2606:4700:10::1", "::ffff:127.0.0.1"],
    ],
)
async def test_a_name_with_one_private_address_is_refused_and_nothing_is_connected(
    addresses: list[str],
) -> None:
    async with open_wire(OK) as wire:
        dns = MadeUpDNS(avisos=[addresses])
        error = await failure(
            f"https://avisos.escritorio.com.br:{wire.port}/", settings=strict_with(wire.port), dns=dns
        )
        assert error.kind == "refused_destination"
        assert wire.connections == 0


async def test_the_refusal_names_no_address_that_dns_gave() -> None:
    error = await failure(
        "https://avisos.escritorio.com.br/",
        settings=Settings(webhook_allow_private=False),
        dns=MadeUpDNS(avisos=[["10.20.30.40"]]),
    )
    assert str(error) == "the destination is not allowed, or its name has no address"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_a_literal_address_reaches_no_socket_even_past_the_grammar(host: str) -> None:
    async with open_wire(OK) as wire:
        connector = guarded_connector(OutboundPolicy(), MadeUpDNS())
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(aiohttp.ClientConnectorError, match="may not be called"):
                await session.get(f"http://{host}:{wire.port}/")
        assert wire.connections == 0


async def test_a_url_that_the_policy_refuses_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(DestinationRefusedError, match="private or reserved"):
        await post("https://127.0.0.1/", settings=Settings(webhook_allow_private=False))
    async with open_wire(OK) as wire:
        chosen = SANDBOX.model_copy(update={"webhook_allowed_hosts": ("escritorio.com.br",)})
        with pytest.raises(DestinationRefusedError, match="not one of those"):
            await post(f"http://127.0.0.1:{wire.port}/", settings=chosen)
        assert wire.connections == 0


async def test_a_name_rebound_between_two_attempts_is_checked_again() -> None:
    dns = MadeUpDNS(avisos=[["127.0.0.1"], ["169.254.169.254"]])
    async with open_wire(OK) as wire, open_outbound(SANDBOX, resolver=dns) as outbound:
        url = f"http://avisos.escritorio.com.br:{wire.port}/"
        assert (await outbound.post(url, body=b"", headers={}, timeout_s=10)).status == 200
        with pytest.raises(DeliveryFailedError) as caught:
            await outbound.post(url, body=b"", headers={}, timeout_s=10)
        assert caught.value.kind == "refused_destination"
        assert wire.connections == 1


async def test_a_name_without_addresses_reads_like_one_that_leads_inside() -> None:
    url, settings = "https://avisos.escritorio.com.br/", Settings(webhook_allow_private=False)
    unknown = await failure(url, settings=settings, dns=MadeUpDNS(avisos=[[]]))
    inside = await failure(url, settings=settings, dns=MadeUpDNS(avisos=[["10.20.30.40"]]))
    assert (unknown.kind, inside.kind) == ("dns", "refused_destination")
    assert str(unknown) == str(inside)
    # Nor is one of them tried more often than the other.
    assert [Try(None, one).is_worth_a_quick_try for one in (unknown, inside)] == [False, False]


async def test_a_closed_port_and_a_silent_one_read_the_same() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else opens it meanwhile
        taken.bind(("127.0.0.1", 0))
        closed = await failure(f"http://127.0.0.1:{taken.getsockname()[1]}/")
    async with open_wire(answer_nothing) as wire:
        silent = await failure(f"http://127.0.0.1:{wire.port}/", timeout_s=0.2)
    assert [closed.kind, silent.kind] == ["connection", "timeout"]
    assert str(closed) == str(silent)


async def test_the_machines_own_names_are_looked_up_in_the_sandbox() -> None:
    async with open_wire(OK) as wire:
        assert (await post(f"http://localhost:{wire.port}/")).body == "obrig"


# What is sent --------------------------------------------------------------------------------------


async def test_the_request_says_who_asks_and_carries_the_callers_path_as_written() -> None:
    async with open_wire(OK) as wire:
        await post(f"http://127.0.0.1:{wire.port}/a/../%7Eb?c=%2F", headers={"webhook-id": "evt_1"})
    head = wire.heads[0].lower()
    assert head.startswith("post /a/../%7eb?c=%2f http/1.1\r\n")
    for line in ("accept-encoding: identity", "webhook-id: evt_1", "connection: close", "content-length: 2"):
        assert f"\r\n{line}\r\n" in head
    assert "\r\nuser-agent: autos/" in head
    assert "(webhooks)\r\n" in head


async def test_a_probe_asks_with_head_and_takes_any_status_as_a_reply() -> None:
    async with (
        open_wire(answering("HTTP/1.1 405 No\r\nContent-Length: 9\r\n\r\n")) as wire,
        open_outbound(SANDBOX) as outbound,
    ):
        reply = await outbound.probe(f"http://127.0.0.1:{wire.port}/", timeout_s=10)
    assert wire.heads[0].startswith("HEAD / ")
    assert (reply.status, reply.body) == (405, "")


async def test_cookies_are_not_kept() -> None:
    async with (
        open_wire(
            answering("HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n")
        ) as wire,
        open_outbound(SANDBOX) as outbound,
    ):
        for _ in range(2):
            await outbound.post(f"http://127.0.0.1:{wire.port}/", body=b"", headers={}, timeout_s=10)
    assert wire.connections == 2
    assert "cookie" not in "".join(wire.heads).lower()


async def test_proxy_variables_are_not_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_wire(OK) as wire, open_wire(OK) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        await post(f"http://127.0.0.1:{wire.port}/")
        assert (wire.connections, proxy.connections) == (1, 0)


# What is answered ----------------------------------------------------------------------------------


async def test_a_redirect_is_returned_and_not_followed() -> None:
    async with open_wire(OK) as inner:
        location = f"Location: http://127.0.0.1:{inner.port}/\r\nContent-Length: 0"
        async with open_wire(answering(f"HTTP/1.1 307 Go\r\n{location}\r\n\r\n")) as wire:
            assert (await post(f"http://127.0.0.1:{wire.port}/")).status == 307
        assert inner.connections == 0


async def test_the_status_decides_and_an_endless_body_is_cut() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=202)
        await response.prepare(request)
        while True:
            await response.write(b"obrigado " * 1000)

    async with open_site(endless) as url:
        reply = await post(url)
    assert reply.status == 202
    assert reply.body == ("obrigado " * 1000)[:1024]


@pytest.mark.parametrize("rest", ["Content-Length: 9999\r\n", "Transfer-Encoding: chunked\r\n"])
async def test_a_body_that_stalls_after_the_status_is_no_failure(rest: str) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{rest}\r\n".encode() + b"3\r\noba\r\n")
        await reader.read()

    async with open_wire(stall) as wire:
        reply = await post(f"http://127.0.0.1:{wire.port}/", timeout_s=0.5)
    assert reply.status == 200
    assert "oba" in reply.body


async def test_a_body_that_breaks_off_is_no_failure() -> None:
    async with open_wire(answering("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nmetade")) as wire:
        reply = await post(f"http://127.0.0.1:{wire.port}/")
    assert (reply.status, reply.body) == (200, "metade")


async def test_a_gzip_body_is_not_unpacked() -> None:
    packed = gzip.compress(b"\0" * 50_000)

    async def zipped(_: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with open_site(zipped) as url:
        reply = await post(url)
    assert reply.status == 200
    assert len(reply.body) <= len(packed)


async def test_a_body_becomes_text_that_postgresql_can_hold() -> None:
    async with open_wire(answering(b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\na\x00b\xffc")) as wire:
        assert (await post(f"http://127.0.0.1:{wire.port}/")).body == "a\ufffdb\ufffdc"


def in_s(seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        (in_s(3600), 3000, 3600),
        (in_s(-3600), 0, 0),
        ("Mon, 01 Jan 2001 00:00:00 -0000", 0, 0),
    ],
    ids=["seconds", "no time", "a date to come", "a date gone by", "a date without zone"],
)
async def test_retry_after_is_read_as_seconds_or_as_a_date(header: str, least: float, most: float) -> None:
    answer = answering(f"HTTP/1.1 503 Later\r\nRetry-After: {header}\r\nContent-Length: 0\r\n\r\n")
    async with open_wire(answer) as wire:
        reply = await post(f"http://127.0.0.1:{wire.port}/")
    assert reply.retry_after_s is not None
    assert least <= reply.retry_after_s <= most


@pytest.mark.parametrize("header", ["", "-5", "1.5", "soon", "9" * 5000, "Mon, 99 Abc 2001 00:00:00 GMT"])
async def test_a_retry_after_that_says_nothing_is_ignored(header: str) -> None:
    answer = answering(f"HTTP/1.1 429 Later\r\nRetry-After: {header}\r\nContent-Length: 0\r\n\r\n")
    async with open_wire(answer) as wire:
        assert (await post(f"http://127.0.0.1:{wire.port}/")).retry_after_s is None


# What goes wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "HTTP/1.1 200 OK\r\nX-Long: " + "a" * 20_000 + "\r\n\r\n",
        "HTTP/1.1 200 OK\r\n" + "X-Many: 1\r\n" * 500 + "\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        "220 mail.escritorio.com.br ESMTP\r\n",
    ],
    ids=["a long header", "many headers", "no length", "another protocol"],
)
async def test_what_is_no_proper_http_is_a_failure_of_the_protocol(answer: str) -> None:
    async with open_wire(answering(answer)) as wire:
        assert (await failure(f"http://127.0.0.1:{wire.port}/")).kind == "protocol"


async def test_a_connection_closed_without_an_answer_is_a_failure_of_the_connection() -> None:
    async with open_wire(answering("")) as wire:
        assert (await failure(f"http://127.0.0.1:{wire.port}/")).kind == "connection"
        assert wire.connections == 1


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's TLS context with a certificate that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "avisos.escritorio.com.br")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("avisos.escritorio.com.br")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, no_password = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / "server.pem"
    file.write_bytes(key.private_bytes(pem, form, no_password) + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_a_certificate_that_nobody_signed_is_a_failure_of_tls(tmp_path: Path) -> None:
    dns = MadeUpDNS(avisos=[["127.0.0.1"]])
    async with open_wire(OK, tls=self_signed(tmp_path)) as wire:
        error = await failure(f"https://avisos.escritorio.com.br:{wire.port}/", dns=dns)
        assert error.kind == "tls"
        assert wire.heads == []


async def test_a_port_that_speaks_no_tls_is_a_failure_of_tls() -> None:
    async def never(_: web.Request) -> web.Response:
        raise AssertionError("no request can come without TLS")

    async with open_site(never) as url:
        assert (await failure(url.replace("http:", "https:"))).kind == "tls"


# Turns ---------------------------------------------------------------------------------------------


async def test_who_gets_no_turn_at_an_endpoint_is_told_so_and_other_endpoints_are_free() -> None:
    async with open_outbound(SANDBOX) as outbound, AsyncExitStack() as turns:
        for _ in range(REQUESTS_PER_ENDPOINT):
            await turns.enter_async_context(outbound.turn("http://127.0.0.1:81/", within_s=0))
        with pytest.raises(DeliveryFailedError) as refused:
            async with outbound.turn("http://127.0.0.1:81/other", within_s=0.01):
                pass
        assert refused.value.kind == "busy"
        async with outbound.turn("http://127.0.0.1:82/", within_s=0.01):
            pass
        await turns.aclose()
        async with outbound.turn("http://127.0.0.1:81/", within_s=0.01):
            pass


async def test_forty_dead_names_hold_no_other_endpoint_up() -> None:
    """DNS says nothing of them; whoever has an address is called meanwhile."""

    class DeadDNS(MadeUpDNS):
        asked = 0

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            if host.startswith("dead"):
                self.asked += 1
                await asyncio.Event().wait()
            return await super().resolve(host, port, family)

    dns = DeadDNS(alive=[["127.0.0.1"]])
    async with open_wire(OK) as wire, open_outbound(SANDBOX, resolver=dns) as outbound:

        async def post(label: str) -> Reply:
            url = f"http://{label}.escritorio.com.br:{wire.port}/"
            async with outbound.turn(url):
                return await outbound.post(url, body=b"", headers={}, timeout_s=30)

        waiting = [asyncio.create_task(post(f"dead{number}")) for number in range(40)]
        await until(lambda: dns.asked == 40)
        assert (await post("alive")).status == 200
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def test_turns_are_given_in_the_order_of_asking() -> None:
    order: list[int] = []

    async def use(number: int) -> None:
        async with outbound.turn("http://127.0.0.1:81/", within_s=10):
            order.append(number)
            await asyncio.sleep(0)

    async with open_outbound(SANDBOX) as outbound:
        await asyncio.gather(*(use(number) for number in range(20)))
    assert order == list(range(20))


async def test_a_cancelled_request_gives_its_turn_back() -> None:
    arrivals = asyncio.Queue[None]()

    async def arrive(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        arrivals.put_nowait(None)
        await reader.read()

    async with open_wire(arrive) as wire, open_outbound(SANDBOX) as outbound:
        url = f"http://127.0.0.1:{wire.port}/"

        async def post_in_turn() -> Reply:
            async with outbound.turn(url, within_s=0.01):
                return await outbound.post(url, body=b"", headers={}, timeout_s=30)

        for _ in range(REQUESTS_PER_ENDPOINT + 1):
            task = asyncio.create_task(post_in_turn())
            await arrivals.get()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        wire.answer = OK
        assert (await post_in_turn()).status == 200
