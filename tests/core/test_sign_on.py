"""The sign-on server's answers, of which none is trusted."""

import asyncio
import gzip
import json
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from service.core.errors import CredentialRefusedError, SignOnError
from service.core.sign_on import Credential, open_sign_on
from tests.core.s3_servers import Fault, hang, reset
from tests.core.sso import CLIENT_SECRET, FIRST_REFRESH_TOKEN, HUSH, Sso, error, open_sso


@pytest.fixture
async def sso() -> AsyncIterator[Sso]:
    async with open_sso() as opened:
        yield opened


def service(sso: Sso) -> Credential:
    return Credential(sso.url, "autos", CLIENT_SECRET, None)


def answering(said: object, status: int = 200, **options: Any) -> Fault:
    async def answer(_request: web.Request) -> web.StreamResponse:
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        return web.Response(body=body, status=status, **options)

    return answer


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 1024)
        await asyncio.sleep(0)


async def test_a_service_sends_its_secret_and_a_session_its_refresh_token(sso: Sso) -> None:
    async with open_sign_on(service(sso)) as sign_on:
        grant = await sign_on.ask(None)
    assert (grant.access_token, grant.lifetime_s, grant.refresh_token) == ("access.1.hush", 28_800, None)
    session = Credential(sso.url, "autos", None, FIRST_REFRESH_TOKEN)
    async with open_sign_on(session) as sign_on:
        first = await sign_on.ask(None)
        second = await sign_on.ask(first.refresh_token)
    assert second.refresh_token == "refresh.3.hush"
    assert sso.forms == [
        {"grant_type": "client_credentials", "client_id": "autos", "client_secret": CLIENT_SECRET},
        {"grant_type": "refresh_token", "client_id": "autos", "refresh_token": FIRST_REFRESH_TOKEN},
        {"grant_type": "refresh_token", "client_id": "autos", "refresh_token": "refresh.2.hush"},
    ]


async def test_a_session_of_a_client_with_a_secret_sends_both(sso: Sso) -> None:
    async with open_sign_on(Credential(sso.url, "autos", CLIENT_SECRET, FIRST_REFRESH_TOKEN)) as sign_on:
        await sign_on.ask(None)
    assert sso.forms[0]["grant_type"] == "refresh_token"
    assert sso.forms[0]["client_secret"] == CLIENT_SECRET


async def test_a_lifetime_that_is_not_said_is_taken_for_a_short_one(sso: Sso) -> None:
    sso.fault = answering({"access_token": "a.hush"})
    async with open_sign_on(service(sso)) as sign_on:
        assert (await sign_on.ask(None)).lifetime_s == 300


@pytest.mark.parametrize(
    ("status", "code"), [(400, "invalid_grant"), (401, "invalid_client"), (400, "unauthorized_client")]
)
async def test_a_refused_credential_is_told_from_a_fault_that_passes(
    sso: Sso, status: int, code: str
) -> None:
    async def refuse(_request: web.Request) -> web.StreamResponse:
        return error(status, code)

    sso.fault = refuse
    async with open_sign_on(service(sso)) as sign_on:
        with pytest.raises(CredentialRefusedError, match=code) as refused:
            await sign_on.ask(None)
    assert refused.value.reason == code
    assert HUSH not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (hang, "in time"),
        (reset, "no answer"),
        (answering(b"hush", status=500), "answered 500"),
        (answering({"error": "invalid_grant"}, status=503), "answered 503"),
        (answering({"error": "temporarily_unavailable hush"}, status=400), "answered 400"),
        (answering({"error": ["invalid_grant"]}, status=400), "answered 400"),
        (answering(b"", status=401), "answered 401"),
        (answering(b"", status=302, headers={"Location": "/token?hush"}), "answered 302"),
        (answering(b" " * 70_000), "too large"),
        (drip, "too large"),
        (answering(b"<html>hush</html>"), "something else"),
        (answering(["hush"]), "something else"),
        (answering({"expires_in": 300}), "something else"),
        (answering({"access_token": ""}), "something else"),
        (answering({"access_token": "hush\r\nX-Evil: 1"}), "something else"),
        (answering({"access_token": "hush" * 5_000}), "something else"),
        (answering({"access_token": "hush", "expires_in": "soon"}), "something else"),
        (answering({"access_token": "hush", "expires_in": True}), "something else"),
        (answering({"access_token": "hush", "expires_in": 0}), "something else"),
        (answering({"access_token": "hush", "refresh_token": "\x00"}), "something else"),
        (
            answering(gzip.compress(b'{"access_token": "hush"}'), headers={"Content-Encoding": "gzip"}),
            "something else",
        ),
    ],
)
async def test_an_answer_without_a_token_is_a_fault_that_passes_and_repeats_nothing(
    sso: Sso, fault: Fault, said: str
) -> None:
    sso.fault = fault
    async with open_sign_on(service(sso), read_timeout_s=0.3) as sign_on:
        with pytest.raises(SignOnError, match=said) as failed:
            await sign_on.ask(None)
    assert len(sso.forms) == 1
    told = "".join(traceback.format_exception(failed.value))
    assert HUSH not in told
    assert "127.0.0.1" not in told


async def test_a_lifetime_beyond_reason_is_cut(sso: Sso) -> None:
    sso.fault = answering({"access_token": "a.hush", "expires_in": 1e300})
    async with open_sign_on(service(sso)) as sign_on:
        assert (await sign_on.ask(None)).lifetime_s == 30 * 86_400


async def test_credentials_differ_in_whatever_was_configured_and_show_no_secret() -> None:
    made = [
        Credential("https://sso.example/a", "autos", CLIENT_SECRET, None),
        Credential("https://sso.example/b", "autos", CLIENT_SECRET, None),
        Credential("https://sso.example/a", "other", CLIENT_SECRET, None),
        Credential("https://sso.example/a", "autos", None, CLIENT_SECRET),
        Credential("https://sso.example/a", "autos", CLIENT_SECRET, FIRST_REFRESH_TOKEN),
    ]
    assert len({credential.sha256 for credential in made}) == len(made)
    assert HUSH not in repr(made)
