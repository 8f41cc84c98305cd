"""The pulse says how things are: in PostgreSQL, in Redis, and with those who work."""

import base64
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

import pytest
from redis.asyncio import Redis

from service.core import canary, chores, clients, pulse, submission
from service.core.cnj import parse_process_number
from service.core.db import Connection, Database, open_database
from service.core.errors import CredentialRefusedError, PortalBreakerOpenError, PortalUnavailableError
from service.core.metrics import REGISTRY
from service.core.portal_limit import PortalLimit, open_portal_limit
from service.core.portal_shared import Shared, state_key
from service.core.pulse import EVERY_S, KEPT_S, Pulse, Pulses, open_pulses
from service.core.settings import Settings
from service.core.sources import open_sources
from service.core.token_source import open_token_source
from service.core.wishes import Wish
from tests.cases import case_numbers
from tests.claims import claim_one
from tests.conftest import MakeSettings
from tests.core.sso import Sso, open_sso
from tests.faults.proxy import Mood, open_proxy
from tests.faults.test_backends_away import port_of, with_port
from tests.log_lines import log_lines
from tests.rings import RING
from tests.world import until

STATE = state_key("portal")
QUICKLY_S = 0.01


@pytest.fixture
async def sso() -> AsyncIterator[Sso]:
    async with open_sso() as opened:
        yield opened


async def _client(conn: Connection) -> UUID:
    client, _ = await clients.ensure(conn, RING, "acme")
    return client.id


async def _submitted(conn: Connection, settings: Settings, count: int) -> list[UUID]:
    """Submit so many processes; their jobs' ids in order."""
    client_id = await _client(conn)
    wishes = [Wish(parse_process_number(number)) for number in case_numbers(count)]
    async with conn.transaction():
        met = await submission.submit_many(conn, wishes, client_id, settings=settings)
    return [one.job.id for one in met if isinstance(one, submission.Submission)]


async def _taken(conn: Connection, settings: Settings) -> Pulse:
    return await pulse.take(conn, None, settings)


async def test_of_an_empty_database_there_is_nothing_to_say(conn: Connection, settings: Settings) -> None:
    taken = await _taken(conn, settings)
    assert (taken.jobs_waiting, taken.jobs_later, taken.jobs_running, taken.oldest_job_s) == (0, 0, 0, None)
    assert (taken.deliveries_pending, taken.oldest_delivery_s, taken.oldest_erasure_s) == (0, None, None)
    assert (taken.swept_at, taken.cleaned_at, taken.canary) == (None, None, None)


async def test_jobs_are_counted_by_what_they_wait_for(conn: Connection, settings: Settings) -> None:
    *_, old, later, final = await _submitted(conn, settings, 7)
    claimed = [await claim_one(conn, lease_s=lease_s) for lease_s in (60, -1)]
    assert {one.id for one in claimed if one}.isdisjoint({old, later, final})
    await conn.execute("update jobs set next_attempt_at = now() - interval '90 s' where id = $1", old)
    await conn.execute("update jobs set next_attempt_at = now() + interval '1 h' where id = $1", later)
    await conn.execute(
        """update jobs set status = 'cancelled', finished_at = now(), progress_percentage = 100,
                           next_attempt_at = now() - interval '1 day' where id = $1""",
        final,
    )
    taken = await _taken(conn, settings)
    assert (taken.jobs_waiting, taken.jobs_later) == (3, 1)
    assert (taken.jobs_running, taken.leases_expired) == (2, 1)
    assert taken.oldest_job_s is not None
    assert 90 <= taken.oldest_job_s < 3600


async def test_jobs_of_every_client_and_priority_count(conn: Connection, settings: Settings) -> None:
    ids = await _submitted(conn, settings, 4)
    other, _ = await clients.ensure(conn, RING, "other")
    await conn.execute("update jobs set client_id = $1 where id = any($2::uuid[])", other.id, ids[:2])
    for job_id, priority in zip(ids, ("high", "low", "normal", "high"), strict=True):
        await conn.execute("update jobs set priority = $2 where id = $1", job_id, priority)
    assert (await _taken(conn, settings)).jobs_waiting == 4


async def test_deliveries_are_counted_until_they_have_arrived(conn: Connection, settings: Settings) -> None:
    await conn.execute(
        """insert into deliveries (client_id, webhook_url, event, payload, status, next_attempt_at,
                                   delivered_at, finished_at)
           select $1, 'https://hooks.example.com', 'webhook.test', '{}', status::delivery_status,
                  now() + due, case when status <> 'pending' then now() end,
                  case when status <> 'pending' then now() end
           from (values ('pending', interval '1 h'), ('pending', '-1 s'), ('pending', '-90 s'),
                        ('delivered', '-1 day'), ('dead', '-1 day')) as r(status, due)""",
        await _client(conn),
    )
    taken = await _taken(conn, settings)
    assert taken.deliveries_pending == 3
    assert taken.oldest_delivery_s is not None
    assert 90 <= taken.oldest_delivery_s < 3600


_ERASURE = """insert into erasures (client_id, of_everyone, process_number, proof, counts, requested_at,
                                    quiet_at, finished_at)
              values ($1, false, $2, '$scrypt$', '{}', now() - $3::interval, now(),
                      case when $2::text is null then now() end)"""


async def test_an_erasure_is_counted_from_the_wish_for_it_until_it_is_finished(
    conn: Connection, settings: Settings
) -> None:
    client_id = await _client(conn)
    await conn.execute(_ERASURE, client_id, None, timedelta(days=3))
    assert (await _taken(conn, settings)).oldest_erasure_s is None
    for minutes, number in zip((120, 2), case_numbers(2), strict=True):
        await conn.execute(_ERASURE, client_id, parse_process_number(number), timedelta(minutes=minutes))
    oldest_s = (await _taken(conn, settings)).oldest_erasure_s
    assert oldest_s is not None
    assert 7200 <= oldest_s < 10_800


async def test_it_knows_when_the_chores_were_done(conn: Connection, settings: Settings) -> None:
    await chores.mark_done(conn, "sweep")
    taken = await _taken(conn, settings)
    assert taken.swept_at is not None
    assert taken.taken_at >= taken.swept_at
    assert taken.cleaned_at is None
    await chores.mark_done(conn, "janitor")
    assert (await _taken(conn, settings)).cleaned_at is not None


async def test_it_shows_the_canary_of_the_settings(conn: Connection, make_settings: MakeSettings) -> None:
    one, other = case_numbers(2)
    await conn.execute(
        "insert into canaries (process_number, succeeded_at, took_s) values ($1, now(), 2.5)",
        parse_process_number(one),
    )
    shown = [(await _taken(conn, make_settings(canary_number=number))).canary for number in (one, other)]
    assert shown[0] is not None
    assert (shown[0].took_s, shown[0].failure) == (2.5, None)
    assert shown[1] == canary.Outcome()


# The portal ---------------------------------------------------------------------------------------


async def _seen(limit: PortalLimit, conn: Connection, settings: Settings) -> Pulse:
    return await pulse.take(conn, await limit.look(), settings)


async def test_what_the_workers_share_at_the_portal_is_seen(
    conn: Connection, settings: Settings, redis_url: str
) -> None:
    async with (
        Redis.from_url(redis_url) as redis,
        open_portal_limit(redis, settings.portal) as limit,
        open_portal_limit(redis, settings.portal) as other,
    ):
        async with limit.slot(), other.slot(), other.slot():
            taken = await _seen(limit, conn, settings)
        assert (taken.portal_limit, taken.portal_in_flight) == (settings.portal_concurrency_start, 3)
        assert (taken.portal_shut_s, taken.portal_paused_s) == (0, 0)
        seconds, _ = await redis.time()
        until_ms = (seconds + 60) * 1000
        await cast(
            "Awaitable[int]",
            redis.hset(STATE, mapping={"limit": 7, "open_until": until_ms, "paused_until": until_ms}),
        )
        taken = await _seen(limit, conn, settings)
    assert (taken.portal_limit, taken.portal_in_flight) == (7, 0)
    assert taken.portal_shut_s is not None
    assert taken.portal_paused_s is not None
    assert 30 < taken.portal_shut_s <= 60
    assert 30 < taken.portal_paused_s <= 60


async def test_a_look_changes_nothing(settings: Settings, empty: None, redis_url: str) -> None:
    """Not even that the breaker, whose time has passed, waits for its probe."""
    settings = settings.model_copy(update={"portal_breaker_failures": 1})
    async with Redis.from_url(redis_url) as redis, open_portal_limit(redis, settings.portal) as limit:
        with pytest.raises(PortalBreakerOpenError):
            await _fail(limit)
        await cast("Awaitable[int]", redis.hset(STATE, "open_until", 1))
        before = await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(STATE))
        shared = await limit.look()
        assert await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(STATE)) == before
        assert shared is not None
        assert shared.shut_ms == 0


async def _fail(limit: PortalLimit) -> None:
    async with limit.slot():
        raise PortalUnavailableError("500")


async def test_while_redis_is_away_nobody_knows_of_the_portal(conn: Connection, settings: Settings) -> None:
    async with (
        Redis.from_url("redis://127.0.0.1:1") as away,
        open_portal_limit(away, settings.portal) as limit,
    ):
        taken = await _seen(limit, conn, settings)
    assert (taken.portal_limit, taken.portal_in_flight) == (None, None)
    assert (taken.portal_shut_s, taken.portal_paused_s) == (None, None)


# Its token ----------------------------------------------------------------------------------------


def _jwt(payload: str) -> str:
    body = base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{body}.c2lnbmF0dXJl"


async def test_a_fixed_token_that_is_a_jwt_says_when_it_expires(
    conn: Connection, make_settings: MakeSettings
) -> None:
    expires_at = datetime(2031, 5, 4, 3, 2, 1, tzinfo=UTC)
    token = _jwt(json.dumps({"sub": "ação", "exp": expires_at.timestamp()}))
    taken = await _taken(conn, make_settings(portal_token=token))
    assert (taken.token_expires_at, taken.token_is_refused) == (expires_at, None)


@pytest.mark.parametrize(
    "token",
    [
        None,
        "portal-token",
        "a.b",
        "..",
        "ação.ção.",
        _jwt("[]"),
        _jwt("{}"),
        _jwt("no json"),
        _jwt('{"exp": "soon"}'),
        _jwt('{"exp": 1e300}'),
    ],
)
async def test_any_other_token_is_not_known_to_expire(
    conn: Connection, make_settings: MakeSettings, token: str | None
) -> None:
    assert (await _taken(conn, make_settings(portal_token=token))).token_expires_at is None


async def test_a_renewed_token_shows_its_end_and_its_refusal(
    conn: Connection, make_settings: MakeSettings, sso: Sso
) -> None:
    settings = sso.service(make_settings)
    before = await _taken(conn, settings)
    assert (before.token_expires_at, before.token_is_refused) == (None, False)
    async with open_database(settings) as db, open_token_source(settings.portal, db) as source:
        token = await source.bearer()
        taken = await _taken(conn, settings)
        assert taken.token_expires_at is not None
        left = taken.token_expires_at - taken.taken_at
        assert timedelta(seconds=sso.lifetime_s / 2) < left <= timedelta(seconds=sso.lifetime_s)
        assert taken.token_is_refused is False
        await conn.execute("update portal_tokens set obtained_at = obtained_at - interval '1 h'")
        assert token
        await source.refused(token)
    assert (await _taken(conn, settings)).token_is_refused is True


async def test_a_credential_that_the_sign_on_server_refused_is_shown(
    conn: Connection, make_settings: MakeSettings, sso: Sso
) -> None:
    settings = sso.session(make_settings, portal_refresh_token="another.one")
    async with open_database(settings) as db, open_token_source(settings.portal, db) as source:
        with pytest.raises(CredentialRefusedError):
            await source.bearer()
    assert (await _taken(conn, settings)).token_is_refused is True


# Again and again ----------------------------------------------------------------------------------


class _Counted(PortalLimit):
    """Counts how often somebody wanted to know."""

    looks = 0

    async def look(self) -> Shared | None:
        self.looks += 1
        return await super().look()


@pytest.fixture
async def limit(empty: None, settings: Settings, redis_url: str) -> AsyncIterator[_Counted]:
    async with Redis.from_url(redis_url) as redis:
        yield _Counted(redis, settings.portal)


async def test_it_is_taken_again_and_again_and_outlives_a_database_that_is_away(
    limit: _Counted, make_settings: MakeSettings, database_url: str
) -> None:
    async with open_proxy(port_of(database_url)) as postgres:
        settings = make_settings(database_url=with_port(database_url, postgres.port))
        async with (
            open_database(settings) as db,
            open_pulses(db, limit, settings, every_s=QUICKLY_S) as pulses,
        ):
            assert pulses.latest is None
            await until(lambda: len(pulses.history) >= 3)
            with log_lines() as lines:
                await postgres.set_mood(Mood.REFUSED)
                await until(lambda: bool(lines))
                kept, looks = pulses.latest, limit.looks
                await until(lambda: limit.looks >= looks + 3)
                assert pulses.latest is kept
                # What is shown is not what was true before; since when that is so can be seen.
                assert REGISTRY.get_sample_value("autos_queue_jobs", {"state": "waiting"}) is None
                assert REGISTRY.get_sample_value("autos_pulse_last_timestamp_seconds") == _at(kept)
                await postgres.set_mood(Mood.THROUGH)
                await until(lambda: pulses.latest is not kept)
                assert REGISTRY.get_sample_value("autos_queue_jobs", {"state": "waiting"}) == 0
    messages = [one["message"] for one in lines if one["logger"] == "service.core.pulse"]
    assert [one.partition(":")[0] for one in messages] == [
        "the pulse is not taken",
        "the pulse is taken again",
    ]


def _at(taken: Pulse | None) -> float:
    assert taken is not None
    return taken.taken_at.timestamp()


async def test_what_is_no_ones_fault_but_ours_ends_it_no_more_than_that(
    limit: _Counted, db: Database, conn: Connection, settings: Settings
) -> None:
    """A table that is not as it should be stands for any defect; the log has its traceback, once."""
    await conn.execute("alter table canaries rename to elsewhere")
    number = parse_process_number(case_numbers(1)[0])
    settings = settings.model_copy(update={"canary_number": number})
    try:
        with log_lines() as lines:
            async with open_pulses(db, limit, settings, every_s=QUICKLY_S) as pulses:
                await until(lambda: limit.looks >= 4)
                await conn.execute("alter table elsewhere rename to canaries")
                await until(lambda: pulses.latest is not None)
    finally:
        await conn.execute("alter table if exists elsewhere rename to canaries")
    assert [one["level"] for one in lines] == ["ERROR", "INFO"]
    assert "UndefinedTableError" in lines[0]["traceback"]


async def test_only_the_last_hour_is_kept(limit: _Counted, db: Database, settings: Settings) -> None:
    async with open_pulses(db, limit, settings, every_s=0) as pulses:
        await until(lambda: limit.looks > KEPT_S / EVERY_S + 5)
        assert len(pulses.history) == KEPT_S / EVERY_S
        assert pulses.history[0].taken_at < pulses.history[-1].taken_at
        assert pulses.latest == pulses.history[-1]


@dataclass
class _Watched:
    """What a pulse is taken of."""

    limit: PortalLimit
    db: Database
    settings: Settings

    @asynccontextmanager
    async def first_pulse(self) -> AsyncIterator[Pulses]:
        async with open_pulses(self.db, self.limit, self.settings) as pulses:
            await until(lambda: pulses.latest is not None)
            yield pulses


@pytest.fixture
def watched(limit: _Counted, db: Database, settings: Settings) -> _Watched:
    return _Watched(limit, db, settings)


async def test_there_are_no_doubts_where_nothing_is_known_or_nothing_has_happened_yet(
    limit: _Counted, db: Database, settings: Settings
) -> None:
    async with open_pulses(db, limit, settings) as pulses:
        assert pulses.doubts() == {}
        await until(lambda: pulses.latest is not None)
        assert pulses.doubts() == {}


@pytest.mark.parametrize(("age", "said"), [("59 s", None), ("61 s", "for 61 s"), ("3 days", "for 259200 s")])
async def test_a_sweep_that_is_long_ago_is_doubted(
    watched: _Watched, conn: Connection, age: str, said: str | None
) -> None:
    # By the same clock as the first look, however slow this machine is.
    async with watched.first_pulse() as pulses:
        first = pulses.history.pop()
        swept_at = await conn.fetchval("select $1::timestamptz - $2::text::interval", first.taken_at, age)
        pulses.history.append(replace(first, swept_at=swept_at))
        assert (said or "") in pulses.doubts().get("workers", "")
        assert bool(pulses.doubts()) is bool(said)


async def test_a_database_that_is_not_swept_is_doubted_a_minute_after_the_first_look(
    watched: _Watched,
) -> None:
    async with watched.first_pulse() as pulses:
        first = pulses.history[0]
        pulses.history.append(replace(first, taken_at=first.taken_at + timedelta(seconds=61)))
        assert "no sweep for 61 s" in pulses.doubts()["workers"]


@pytest.mark.parametrize(("age", "doubted"), [("200 s", []), ("1 h", ["jobs"])])
async def test_jobs_that_wait_for_a_worker_for_minutes_are_a_doubt(
    watched: _Watched, conn: Connection, age: str, doubted: list[str]
) -> None:
    await _submitted(conn, watched.settings, 2)
    await conn.execute("update jobs set next_attempt_at = now() - $1::text::interval", age)
    async with watched.first_pulse() as pulses:
        assert list(pulses.doubts()) == doubted


# Two sources --------------------------------------------------------------------------------------


async def test_of_two_sources_places_are_added_up_and_the_worse_breaker_counts(
    db: Database, make_settings: MakeSettings, redis_url: str
) -> None:
    settings = make_settings(source_by_court="4.04=data_lake", data_lake_concurrency_start=5)
    async with Redis.from_url(redis_url) as redis, open_sources(settings, db, redis) as sources:
        portal, lake = (sources.of(number) for number in ("10035792220258260564", "50465129420164047000"))
        async with portal.limit.slot(), lake.limit.slot():
            seen = await sources.look()
        assert seen is not None
        assert (seen.limit, seen.in_flight) == (settings.portal_concurrency_start + 5, 2)
        assert (seen.shut_ms, seen.paused_ms) == (0, 0)
        await cast("Awaitable[int]", redis.hset(state_key("data_lake"), "open_until", 2**52))
        seen = await sources.look()
        assert seen is not None
        assert seen.shut_ms > 0
    async with Redis.from_url("redis://127.0.0.1:1") as away, open_sources(settings, db, away) as sources:
        assert await sources.look() is None


async def test_of_two_tokens_the_one_that_is_worse_off_is_shown(
    conn: Connection, make_settings: MakeSettings, sso: Sso
) -> None:
    soon, later = _jwt('{"exp": 2000000000}'), _jwt('{"exp": 2100000000}')
    both = {"source_by_court": "4.04=data_lake"}
    for portal, lake in ((soon, later), (later, soon), (soon, None)):
        taken = await _taken(conn, make_settings(**both, portal_token=portal, data_lake_token=lake))
        assert taken.token_expires_at is not None
        assert taken.token_expires_at.timestamp() == 2_000_000_000
    # One that nobody renews is the one to look after.
    taken = await _taken(conn, sso.service(make_settings, **both, data_lake_token=soon))
    assert (taken.token_is_refused, taken.token_expires_at is not None) == (None, True)
    settings = sso.session(make_settings, **both, data_lake_token=soon, portal_refresh_token="another.one")
    async with open_database(settings) as db, open_token_source(settings.portal, db) as source:
        with pytest.raises(CredentialRefusedError):
            await source.bearer()
    assert (await _taken(conn, settings)).token_is_refused is True
