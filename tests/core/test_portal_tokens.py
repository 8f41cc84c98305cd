"""The portal's token: one for all workers, renewed in time, and never lost between two of them."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.core import portal_tokens
from service.core.db import Database, open_database
from service.core.errors import (
    CredentialRefusedError,
    PortalUnauthorizedError,
    PortalUnavailableError,
    SignOnError,
)
from service.core.portal import Portal, open_portal
from service.core.portal_tokens import Claimed
from service.core.settings import Settings
from service.core.sign_on import Credential
from service.core.token_source import FixedToken, TokenSource, open_token_source
from service.sandbox.cases import Special, process_object, special_number
from tests.conftest import MakeSettings
from tests.core.s3_servers import Gate, hang, reset
from tests.core.sso import CLIENT_SECRET, FIRST_REFRESH_TOKEN, HUSH, Sso, error, open_sso
from tests.faults.children import open_worker_process
from tests.world import open_world

NUMBER = "10035792220258260564"
UUID_ = UUID("9a87a518-93e8-5bb6-af38-59189fe6c8f8")

Look: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def sso() -> AsyncIterator[Sso]:
    async with open_sso() as opened:
        yield opened


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Look]:
    """A connection beside those of Autos."""
    conn = await asyncpg.connect(database_url)
    yield conn
    await conn.close()


@asynccontextmanager
async def a_process(settings: Settings, **options: Any) -> AsyncIterator[TokenSource]:
    """A token source as a process of its own has it, with its own connections."""
    async with open_database(settings) as db, open_token_source(settings.portal, db, **options) as source:
        yield source


async def _age(conn: Look, *, left_s: float | None = None, age_s: float | None = None) -> None:
    """Make the token one that has so many seconds left, or was given so many seconds earlier."""
    if left_s is not None:
        await conn.execute(
            """update portal_tokens set expires_at = now() + $1 * interval '1 s'
               where access_token is not null""",
            left_s,
        )
    if age_s is not None:
        await conn.execute(
            """update portal_tokens set obtained_at = obtained_at - $1 * interval '1 s',
                                        rejected_at = rejected_at - $1 * interval '1 s'""",
            age_s,
        )
    await conn.execute("update portal_tokens set next_attempt_at = now()")


# Which source -------------------------------------------------------------------------------------


async def test_a_fixed_token_is_sent_as_it_is_and_cannot_be_replaced(
    db: Database, make_settings: MakeSettings
) -> None:
    async with open_token_source(make_settings(portal_token="fixed").portal, db) as source:
        assert isinstance(source, FixedToken)
        assert await source.bearer() == "fixed"
        assert await source.refused("fixed") is False
        assert await source.bearer() == "fixed"


async def test_without_any_setting_there_is_no_token(db: Database, make_settings: MakeSettings) -> None:
    async with open_token_source(make_settings(portal_token=None).portal, db) as source:
        assert await source.bearer() is None


async def test_a_service_gets_its_token_once_and_keeps_it(
    db: Database, sso: Sso, make_settings: MakeSettings
) -> None:
    async with open_token_source(sso.service(make_settings).portal, db) as source:
        assert [await source.bearer() for _ in range(3)] == [sso.access_token] * 3
    assert [form["grant_type"] for form in sso.forms] == ["client_credentials"]


async def test_a_session_goes_on_with_each_refresh_token_that_it_was_given(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    settings = sso.session(make_settings)
    for _ in range(3):
        async with open_token_source(settings.portal, db) as source:
            assert await source.bearer() == sso.access_token
        await _age(look, left_s=0)
    sent = [form["refresh_token"] for form in sso.forms]
    assert sent == [FIRST_REFRESH_TOKEN, "refresh.1.hush", "refresh.2.hush"]


async def test_a_server_that_does_not_rotate_gets_the_same_refresh_token_again(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    sso.rotates = False
    for _ in range(2):
        async with open_token_source(sso.session(make_settings).portal, db) as source:
            await source.bearer()
        await _age(look, left_s=0)
    assert [form["refresh_token"] for form in sso.forms] == [FIRST_REFRESH_TOKEN] * 2


# In time, and once --------------------------------------------------------------------------------


async def test_a_token_is_renewed_in_its_last_minute_and_not_before(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    settings = sso.session(make_settings)
    for left_s, asked in ((None, 1), (65, 1), (59, 2), (-1, 3)):
        await _age(look, left_s=left_s)
        async with open_token_source(settings.portal, db) as source:
            assert await source.bearer() == sso.access_token
        assert len(sso.forms) == asked


async def test_a_token_kept_in_the_process_is_given_up_in_its_last_minute_too(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    sso.lifetime_s = 60.5
    async with open_token_source(sso.service(make_settings).portal, db) as source:
        first = await source.bearer()
        await _age(look)
        async with asyncio.timeout(10):
            while await source.bearer() == first:
                await asyncio.sleep(0.05)
    assert len(sso.forms) == 2


async def test_fifty_callers_in_two_processes_make_one_request(
    empty: None, sso: Sso, make_settings: MakeSettings
) -> None:
    settings = sso.session(make_settings)
    async with a_process(settings) as one, a_process(settings) as two:
        tokens = await asyncio.gather(*(source.bearer() for source in (one, two) * 25))
    assert set(tokens) == {sso.access_token}
    assert len(sso.forms) == 1


async def test_who_waits_for_another_process_holds_no_connection(
    empty: None, sso: Sso, make_settings: MakeSettings
) -> None:
    settings = sso.session(make_settings, database_pool_size=1)
    sso.fault = gate = Gate()
    async with a_process(settings) as one, open_database(settings) as db:
        first = asyncio.create_task(one.bearer())
        await gate.reached.wait()
        async with open_token_source(settings.portal, db) as two:
            second = asyncio.create_task(two.bearer())
            for _ in range(20):
                async with db.connection() as conn:
                    assert await conn.fetchval("select claimed_until > now() from portal_tokens")
            assert not second.done()
            gate.opened.set()
            assert await first == await second == sso.access_token
    assert len(sso.forms) == 1


async def test_a_claim_that_is_taken_too_early_not_needed_or_in_vain_is_not_given(
    db: Database, sso: Sso, make_settings: MakeSettings
) -> None:
    key = _key(sso.session(make_settings))
    async with db.connection() as conn:

        async def claim() -> Claimed | None:
            return await portal_tokens.claim(conn, key, hold_s=60, pace_s=0)

        first = await claim()
        assert first is not None
        assert await claim() is None
        await portal_tokens.record_failure(conn, first, "failed", delay_s=60)
        assert await claim() is None
        await conn.execute("update portal_tokens set next_attempt_at = now()")
        second = await claim()
        assert second is not None
        await portal_tokens.save(conn, second, access_token="a", lifetime_s=65, refresh_token=None)
        assert await claim() is None
        await conn.execute("update portal_tokens set expires_at = now() + interval '59 s'")
        third = await claim()
        assert third is not None
        await portal_tokens.record_refusal(conn, third, "invalid_grant")
        assert await claim() is None


async def test_the_claim_of_a_worker_that_died_runs_out(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    settings = sso.session(make_settings)
    key = _key(settings)
    async with db.connection() as conn:
        dead = await portal_tokens.claim(conn, key, hold_s=60, pace_s=0)
    assert dead is not None
    await look.execute("update portal_tokens set claimed_until = now() - interval '1 s'")
    async with open_token_source(settings.portal, db) as source:
        assert await source.bearer() == sso.access_token
    async with db.connection() as conn:
        # The dead one comes back with nothing, which nobody wants to know any more.
        await portal_tokens.record_failure(conn, dead, "too late", delay_s=60)
        await portal_tokens.record_refusal(conn, dead, "invalid_grant")
        row = await portal_tokens.get(conn, key)
    assert (row.access_token, row.last_error, row.refused_reason) == (sso.access_token, None, None)


# The only valid refresh token ---------------------------------------------------------------------


async def test_a_rotated_refresh_token_is_written_before_its_access_token_is_used(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    written: list[bool] = []

    async def portal(request: web.Request) -> web.Response:
        kept = await look.fetchval("select refresh_token from portal_tokens")
        written.append(kept == sso.refresh_token != FIRST_REFRESH_TOKEN)
        return _answer_process(sso, request)

    async with (
        open_token_source(sso.session(make_settings).portal, db) as source,
        a_portal(source, portal) as client,
    ):
        await client.read_process(NUMBER)
    assert written == [True]


async def test_a_worker_killed_at_its_first_use_of_a_token_leaves_the_rotated_refresh_token(
    empty: None, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    number = special_number(Special.HANGING)
    async with open_world(sso.session(make_settings), with_worker=False) as world:
        world.portal.token = "access.1.hush"
        await (await world.caller()).get(f"/processes/{number}")
        async with open_worker_process(world.settings) as worker, asyncio.timeout(30):
            while not world.portal.processes:
                await asyncio.sleep(0.02)
            worker.kill()
            await worker.wait()
        await _age(look, left_s=-1)
        async with a_process(world.settings) as source:
            assert await source.bearer() == "access.2.hush"
    assert [form["refresh_token"] for form in sso.forms] == [FIRST_REFRESH_TOKEN, "refresh.1.hush"]


async def test_the_answer_is_kept_when_who_asked_for_it_is_cancelled(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    sso.afterwards = gate = Gate()
    async with open_token_source(sso.session(make_settings).portal, db) as source:
        asking = asyncio.create_task(source.bearer())
        await gate.reached.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        gate.opened.set()
    assert await look.fetchval("select refresh_token from portal_tokens") == sso.refresh_token


async def test_the_answer_waits_for_a_database_that_is_away_and_is_not_used_before(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    sso.afterwards = gate = Gate()
    async with open_token_source(sso.session(make_settings).portal, db) as source:
        asking = asyncio.create_task(source.bearer())
        await gate.reached.wait()
        async with look.transaction():
            await look.execute("lock table portal_tokens in share mode")
            gate.opened.set()
            async with asyncio.timeout(20):
                while "waits to be written" not in caplog.text:
                    await asyncio.sleep(0.05)
            assert not asking.done()
        assert await asking == sso.access_token
    assert await look.fetchval("select refresh_token from portal_tokens") == sso.refresh_token


async def test_a_claim_that_ran_out_still_brings_in_the_refresh_token_that_alone_is_valid(
    db: Database, sso: Sso, make_settings: MakeSettings
) -> None:
    """A process stands still with the answer in its hand; another one asks with the token of before."""
    key = _key(sso.session(make_settings))
    async with db.connection() as conn:
        slow = await portal_tokens.claim(conn, key, hold_s=0, pace_s=0)
        quick = await portal_tokens.claim(conn, key, hold_s=60, pace_s=0)
        assert slow is not None
        assert quick is not None
        await portal_tokens.record_refusal(conn, quick, "invalid_grant")
        await portal_tokens.save(conn, slow, access_token="a1", lifetime_s=300, refresh_token="r1")
        row = await portal_tokens.get(conn, key)
        assert (row.access_token, row.refused_reason) == ("a1", None)
        # In the other order the refusal is of a token that nobody uses any more.
        await portal_tokens.record_refusal(conn, quick, "invalid_grant")
        assert (await portal_tokens.get(conn, key)).refused_reason is None
        # And without a new refresh token a claim that ran out brings nothing.
        await portal_tokens.save(conn, slow, access_token="a2", lifetime_s=300, refresh_token=None)
        assert (await portal_tokens.get(conn, key)).access_token == "a1"


async def test_a_lifetime_counts_from_before_the_request(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    sso.afterwards = gate = Gate()
    async with open_token_source(sso.session(make_settings).portal, db) as source:
        asking = asyncio.create_task(source.bearer())
        await gate.reached.wait()
        asked_before = await look.fetchval("select now()")
        gate.opened.set()
        await asking
    expires_at = await look.fetchval("select expires_at from portal_tokens")
    assert (expires_at - asked_before).total_seconds() <= sso.lifetime_s


# What the sign-on server can do to us --------------------------------------------------------------


async def test_a_refused_credential_is_asked_for_once_until_another_one_is_configured(
    empty: None, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    sso.refresh_token = "another.hush"
    settings = sso.session(make_settings)
    for _ in range(2):
        async with a_process(settings) as one, a_process(settings) as two:
            told = await asyncio.gather(
                *(source.bearer() for source in (one, two) * 5), return_exceptions=True
            )
        assert {type(error) for error in told} == {CredentialRefusedError}
        await _age(look)
    assert len(sso.forms) == 1
    async with a_process(sso.session(make_settings, portal_refresh_token="another.hush")) as source:
        assert await source.bearer() == sso.access_token
    assert len(sso.forms) == 2


async def test_a_server_that_fails_is_asked_again_only_after_a_while_whoever_asks(
    empty: None, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    sso.fault = reset
    settings = sso.session(make_settings)
    async with a_process(settings) as one, a_process(settings) as two:
        for asked in (1, 1, 2):
            if asked == 2:
                await _age(look)
            told = await asyncio.gather(
                *(source.bearer() for source in (one, two) * 5), return_exceptions=True
            )
            assert {type(error) for error in told} == {SignOnError}
            assert {str(error) for error in told} == {
                "no answer from the sign-on server (ServerDisconnectedError)"
            }
            assert len(sso.forms) == asked
        sso.fault = None
        await _age(look)
        assert await one.bearer() == await two.bearer() == sso.access_token
    assert len(sso.forms) == 3


async def test_a_server_that_says_nothing_lets_everybody_wait_for_the_portal(
    empty: None, sso: Sso, make_settings: MakeSettings
) -> None:
    sso.fault = hang
    async with a_process(sso.session(make_settings), read_timeout_s=0.2) as source:
        with pytest.raises(PortalUnauthorizedError, match="did not answer in time") as failed:
            await source.bearer()
    assert failed.value.code == "upstream_auth"


async def test_a_slow_sign_on_server_is_not_taken_for_a_slow_portal(
    empty: None, sso: Sso, make_settings: MakeSettings
) -> None:
    """The portal's fault would cost the document an attempt."""

    async def portal(request: web.Request) -> web.Response:
        return _answer_process(sso, request)

    sso.fault = hang
    async with (
        a_process(sso.session(make_settings), read_timeout_s=0.5) as source,
        a_portal(source, portal, portal_read_timeout_s=0.05) as client,
    ):
        with pytest.raises(SignOnError, match="in time"):
            await client.read_process(NUMBER)


async def test_a_token_is_used_to_its_end_while_no_other_can_be_had(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    async with open_token_source(sso.session(make_settings).portal, db) as source:
        token = await source.bearer()
    await _age(look, left_s=30)
    sso.fault = reset
    async with open_token_source(sso.session(make_settings).portal, db) as source:
        assert [await source.bearer() for _ in range(3)] == [token] * 3
    assert len(sso.forms) == 2


async def test_tokens_that_last_less_than_a_minute_are_used_and_not_renewed_at_every_call(
    db: Database, sso: Sso, make_settings: MakeSettings
) -> None:
    sso.lifetime_s = 50
    async with open_token_source(sso.service(make_settings).portal, db) as source:
        assert {await source.bearer() for _ in range(10)} == {"access.1.hush"}
    assert len(sso.forms) == 1


async def test_a_database_that_is_away_lets_everybody_wait_for_the_portal(
    look: Look, db: Database, sso: Sso, make_settings: MakeSettings
) -> None:
    async with open_token_source(sso.service(make_settings).portal, db) as source, look.transaction():
        await look.execute("lock table portal_tokens in access exclusive mode")
        with pytest.raises(PortalUnauthorizedError, match="database"):
            await source.bearer()
    assert sso.forms == []


# What the portal can do to us ---------------------------------------------------------------------


@asynccontextmanager
async def a_portal(source: TokenSource, handler: Handler, **changes: Any) -> AsyncIterator[Portal]:
    """A client whose portal answers everything with one handler."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    async with TestServer(app) as server:
        settings = Settings.model_validate({"portal_url": str(server.make_url("/api/v2")), **changes})
        async with open_portal(settings.portal, source) as portal:
            yield portal


def _answer_process(sso: Sso, request: web.Request) -> web.Response:
    """Let in who has the newest token."""
    if request.headers.get("Authorization") != f"Bearer {sso.access_token}":
        return web.Response(status=401)
    return web.json_response([process_object(NUMBER)])


async def test_a_token_refused_in_mid_run_is_replaced_once_and_every_request_succeeds(
    empty: None, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    async def portal(request: web.Request) -> web.Response:
        return _answer_process(sso, request)

    settings = sso.session(make_settings)
    async with AsyncExitStack() as stack:
        sources = [await stack.enter_async_context(a_process(settings)) for _ in range(2)]
        portals = [await stack.enter_async_context(a_portal(source, portal)) for source in sources]
        await asyncio.gather(*(client.read_process(NUMBER) for client in portals))
        sso.access_token = "a token from elsewhere"
        await _age(look, age_s=301)
        await asyncio.gather(*(client.read_process(NUMBER) for client in portals * 10))
    assert len(sso.forms) == 2


async def test_a_document_too_is_asked_for_again_with_the_new_token(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    seen: list[str] = []

    async def portal(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(status=401) if len(seen) == 1 else web.Response(body=b"%PDF-1.7")

    async with (
        open_token_source(sso.service(make_settings).portal, db) as source,
        a_portal(source, portal) as client,
    ):
        await source.bearer()
        await _age(look, age_s=301)
        async with client.open_document(NUMBER, UUID_) as stream:
            assert [chunk async for chunk in stream.chunks] == [b"%PDF-1.7"]
    assert seen == ["Bearer access.1.hush", "Bearer access.2.hush"]


async def test_a_new_token_that_is_refused_too_raises_and_is_not_replaced_again(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    seen: list[str] = []

    async def portal(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(status=401)

    async with (
        open_token_source(sso.session(make_settings).portal, db) as source,
        a_portal(source, portal) as client,
    ):
        await source.bearer()
        await _age(look, age_s=301)
        for _ in range(5):
            with pytest.raises(PortalUnauthorizedError, match="did not accept our token"):
                await client.read_process(NUMBER)
            await look.execute("update portal_tokens set next_attempt_at = now()")
    assert seen == ["Bearer access.1.hush"] + ["Bearer access.2.hush"] * 5
    assert len(sso.forms) == 2


async def test_a_server_that_gives_the_refused_token_again_is_not_asked_for_a_third_one(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    async def the_same(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"access_token": "same.hush", "expires_in": 3600})

    sso.fault = the_same
    async with open_token_source(sso.service(make_settings).portal, db) as source:
        assert await source.bearer() == "same.hush"
        for can_help in (True, False, False):
            await _age(look, age_s=301)
            assert await source.refused("same.hush") is can_help
            assert await source.bearer() == "same.hush"
    assert len(sso.forms) == 2


async def test_a_token_that_was_replaced_meanwhile_needs_no_request(
    empty: None, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    settings = sso.session(make_settings)
    async with a_process(settings) as one, a_process(settings) as two:
        old = await one.bearer()
        assert old is not None
        assert await two.bearer() == old
        await _age(look, age_s=301)
        assert await one.refused(old)
        new = await one.bearer()
        assert await two.refused(old)
        assert await two.bearer() == new != old
    assert len(sso.forms) == 2


async def test_another_hosts_refusal_is_no_word_about_the_token(
    db: Database, look: Look, sso: Sso, make_settings: MakeSettings
) -> None:
    tokens: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        tokens.append(request.headers.get("Authorization", "none"))
        return web.Response(status=401)

    app = web.Application()
    app.router.add_get("/", elsewhere)
    async with TestServer(app) as other, open_token_source(sso.service(make_settings).portal, db) as source:

        async def portal(_request: web.Request) -> web.Response:
            return web.Response(status=302, headers={"Location": str(other.make_url("/"))})

        async with a_portal(source, portal, portal_redirect_hosts="127.0.0.1") as client:
            await source.bearer()
            await _age(look, age_s=301)
            with pytest.raises(PortalUnavailableError, match="led to refused us"):
                await client.read_process(NUMBER)
    assert tokens == ["none"]
    assert len(sso.forms) == 1


# No word of it ------------------------------------------------------------------------------------


async def test_no_secret_is_told_in_a_log_an_error_or_a_repr(
    empty: None, look: Look, sso: Sso, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    async def refuse(_request: web.Request) -> web.StreamResponse:
        return error(401, "invalid_client")

    async def portal(_request: web.Request) -> web.Response:
        return web.Response(status=401, text=f"token expirado: {sso.access_token}")

    settings = sso.session(make_settings, portal_client_secret=CLIENT_SECRET)
    async with a_process(settings, read_timeout_s=0.2) as source, a_portal(source, portal) as client:
        for fault in (hang, reset, None, refuse):
            sso.fault = fault
            try:
                await client.read_process(NUMBER)
            except PortalUnauthorizedError as failure:
                told.append("".join(traceback.format_exception(failure)))
            told.append(repr(vars(source)))
            await _age(look, left_s=-1)
    async with open_database(settings) as db, db.connection() as conn:
        told.append(repr(await portal_tokens.get(conn, _key(settings))))
    assert len(told) == 4 + 4 + 1
    assert HUSH not in "".join(told)
    assert "renewed" in caplog.text
    assert HUSH not in "".join(record.getMessage() + str(vars(record)) for record in caplog.records)


def _key(settings: Settings) -> bytes:
    credential = Credential.from_settings(settings.portal)
    assert credential is not None
    return credential.sha256
