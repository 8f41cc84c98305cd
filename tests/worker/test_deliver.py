"""Deliveries: what each answer of a receiver leads to, and that nothing is sent twice at once."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.core import clients, deliveries, settlement, submission
from service.core.db import Connection
from service.core.deliveries import Attempt, Claimed, Round
from service.core.key_ring import new_key
from service.core.outbound import DeliveryFailedError, Reply
from service.core.sending import Sent, Try
from service.core.settings import Settings
from service.core.states import DeliveryStatus
from service.core.wishes import Wish
from tests.claims import claim_one
from tests.conftest import MakeSettings
from tests.erasures import ERASER, erased
from tests.receiver import Receiver
from tests.rings import RING
from tests.wire import answer_nothing, open_wire
from tests.world import World, open_world
from worker.tasks.deliver import judge

NUMBER = "10035792220258260564"
MASKED = "1003579-22.2025.8.26.0564"


def _claimed(rounds: int = 0) -> Claimed:
    return Claimed(
        id=uuid4(),
        client_id=uuid4(),
        endpoint_id=None,
        destination=uuid4(),
        fence=1,
        event="job.completed",
        payload={},
        rounds=rounds,
        redeliveries=0,
        next_attempt_at=datetime.now(UTC),
        url="https://hooks.example.com/",
        reference=None,
        max_secrecy=None,
        is_wanted=True,
        job_traceparent=None,
    )


def _answered(status: int, retry_after_s: float | None = None) -> Try:
    return Try(Reply(status, retry_after_s, "", 0.1), None)


def _judged(last: Try, rounds: int = 0) -> Round:
    return judge(_claimed(rounds), Sent(last, ()), Settings())


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_2xx_is_delivered(status: int) -> None:
    assert _judged(_answered(status)).status is DeliveryStatus.DELIVERED


@pytest.mark.parametrize("status", [100, 301, 302, 400, 404, 500, 503])
def test_anything_else_is_tried_again(status: int) -> None:
    ended = _judged(_answered(status))
    assert ended.status is DeliveryStatus.PENDING
    assert ended.error == f"the receiver answered {status}"


def test_410_ends_the_delivery_at_once() -> None:
    assert _judged(_answered(410)).status is DeliveryStatus.DEAD


def test_the_schedule_is_that_of_the_documents_with_a_fifth_of_jitter_and_then_ends() -> None:
    schedule = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
    for rounds, delay_s in enumerate(schedule):
        ended = _judged(_answered(400), rounds)
        assert 0.8 * delay_s <= ended.delay_s <= 1.2 * delay_s
    assert _judged(_answered(400), len(schedule)).status is DeliveryStatus.DEAD


@pytest.mark.parametrize(
    "last",
    [
        Try(None, DeliveryFailedError("timeout")),
        _answered(429),
        _answered(502),
        _answered(504),
    ],
)
def test_an_overloaded_receiver_is_left_alone_for_a_minute(last: Try) -> None:
    assert _judged(last).delay_s == 60


@pytest.mark.parametrize(("asked_s", "least_s", "most_s"), [(1, 240, 360), (400, 400, 400), (9e9, 480, 720)])
def test_retry_after_is_honoured_between_the_wait_and_its_double(
    asked_s: float, least_s: float, most_s: float
) -> None:
    delay_s = _judged(_answered(503, asked_s), rounds=1).delay_s
    assert least_s <= delay_s <= most_s


async def _settled_with_webhook(world: World, url: str) -> UUID:
    """A cancelled job with one delivery that nobody was rung for yet; returns its destination."""
    async with world.db.transaction() as conn:
        client, _ = await clients.ensure(conn, RING, "acme")
        submitted = await submission.submit(
            conn, Wish(NUMBER, webhook_url=url), client.id, settings=world.settings
        )
        settled = await settlement.cancel(conn, submitted.job.id, client.id)
        assert settled
        (destination,) = settled.destinations
    return destination


async def _delivery(world: World) -> dict[str, Any]:
    async with world.db.connection() as conn:
        row = await conn.fetchrow("select * from deliveries")
    assert row is not None
    return dict(row)


async def _until_noted(world: World, *, rounds: int) -> None:
    async with asyncio.timeout(30):
        while (await _delivery(world))["rounds"] < rounds:
            await asyncio.sleep(0.05)


async def _until_ended(world: World) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (row := await _delivery(world))["status"] == "pending":
            await asyncio.sleep(0.05)
    return row


async def test_a_cancelled_job_is_told_too(world: World, receiver: Receiver) -> None:
    await _settled_with_webhook(world, receiver.url)
    (got,) = await receiver.wait_for(1)
    assert (got.event["type"], got.event["status"]) == ("job.cancelled", "cancelled")
    assert (got.event["process_number"], got.event["error_code"]) == (MASKED, "cancelled")


async def test_a_receiver_that_always_fails_is_given_up_after_the_schedule(
    world: World, receiver: Receiver
) -> None:
    receiver.statuses = [500] * 100
    await _settled_with_webhook(world, receiver.url)
    row = await _until_ended(world)
    assert (row["status"], row["rounds"], row["attempts"]) == ("dead", 4, 12)
    assert (row["last_status_code"], row["last_error"]) == (500, "the receiver answered 500")
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 1


async def test_a_redirect_is_not_followed(world: World, receiver: Receiver) -> None:
    receiver.statuses = [302]
    receiver.headers = {"Location": receiver.url + "/elsewhere"}
    await _settled_with_webhook(world, receiver.url)
    first, second = await receiver.wait_for(2)
    assert (first.path, second.path) == ("/hook", "/hook")
    assert (await _until_ended(world))["attempts"] == 2


async def test_a_receiver_that_hangs_holds_nobody_else_up(
    empty: None, make_settings: MakeSettings, receiver: Receiver
) -> None:
    """More deliveries to it than there are places: all the same another receiver is told."""
    places = 2
    settings = make_settings(deliveries_per_worker=places, webhook_timeout_s=60, drain_s=0.1)
    async with open_wire(answer_nothing) as hanging, open_world(settings) as world:
        for number in range(10 * places):
            await _settled_with_webhook(world, f"http://127.0.0.1:{hanging.port}/{number}")
        await _settled_with_webhook(world, receiver.url)
        await receiver.wait_for(1)
        async with world.db.connection() as conn:
            assert await conn.fetchval("select max(rounds) from deliveries where status = 'pending'") == 0


async def _claim_one(
    conn: Connection, destination: UUID, *, hold_s: float, late_s: float = 1800
) -> Claimed | None:
    claimed = await deliveries.claim(conn, {destination: 1}, hold_s=hold_s, late_s=late_s)
    return claimed[0] if claimed else None


async def test_a_round_that_comes_late_has_links_that_count_from_now(api: World) -> None:
    destination = await _settled_with_webhook(api, "https://hooks.example.com/")
    async with api.db.connection() as conn:
        await conn.execute("update deliveries set next_attempt_at = now() - interval '20 min'")
        due = (await _delivery(api))["next_attempt_at"]
        claimed = await _claim_one(conn, destination, hold_s=0, late_s=1800)
        assert claimed
        assert claimed.next_attempt_at == due
        claimed = await _claim_one(conn, destination, hold_s=0, late_s=600)
        assert claimed
        assert claimed.next_attempt_at > due


async def test_of_many_senders_one_gets_the_delivery(api: World) -> None:
    destination = await _settled_with_webhook(api, "https://hooks.example.com/")

    async def claim() -> Claimed | None:
        async with api.db.connection() as conn:
            return await _claim_one(conn, destination, hold_s=60)

    claims = await asyncio.gather(*(claim() for _ in range(20)))
    assert sum(one is not None for one in claims) == 1


async def test_a_sender_whose_claim_ran_out_can_note_nothing(api: World) -> None:
    destination = await _settled_with_webhook(api, "https://hooks.example.com/")
    async with api.db.connection() as conn:
        late = await _claim_one(conn, destination, hold_s=0)
        taken_over = await _claim_one(conn, destination, hold_s=60)
        assert late
        assert taken_over
        # The same time gives the same links: a repeat after a crash has the very same body.
        assert taken_over.next_attempt_at == late.next_attempt_at
        too_late = (late, Round(DeliveryStatus.DEAD, (), "too late"))
        in_time = (taken_over, Round(DeliveryStatus.DELIVERED, (), None))
        assert await deliveries.record_rounds(conn, [too_late]) == set()
        assert await deliveries.record_rounds(conn, [in_time]) == {taken_over.id}
    assert (await _delivery(api))["status"] == "delivered"


async def test_what_is_erased_while_a_try_of_it_is_noted_goes_with_that_try(api: World) -> None:
    destination = await _settled_with_webhook(api, "https://hooks.example.com/")
    eraser = await api.caller(scopes=ERASER)
    attempt = Attempt(datetime.now(UTC), 0.1, 200, None, "")
    async with api.db.connection() as conn:
        claimed = await _claim_one(conn, destination, hold_s=60)
    assert claimed
    async with api.db.transaction() as conn:
        await deliveries.record_rounds(conn, [(claimed, Round(DeliveryStatus.DELIVERED, (attempt,), None))])
        erasing = asyncio.create_task(erased(eraser, MASKED))
        await api.until(
            "select exists (select from pg_stat_activity where wait_event_type = 'Lock'"
            " and datname = current_database())"
        )
    await erasing
    async with api.db.connection() as conn:
        assert await conn.fetchval("select count(*) from delivery_attempts") == 0


async def test_a_call_repeated_while_its_webhook_waits_for_hours_has_it_sent_at_once(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    receiver.statuses = [404]
    await caller.get(f"/processes/{NUMBER}", params={"webhook_url": receiver.url})
    await receiver.wait_for(1)
    await _until_noted(world, rounds=1)
    async with world.db.connection() as conn:
        await conn.execute("update deliveries set next_attempt_at = now() + interval '20 h'")
    await caller.get(f"/processes/{NUMBER}", params={"webhook_url": receiver.url})
    first, second = await receiver.wait_for(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


@pytest.mark.parametrize(("is_being_sent", "deliveries_made"), [(False, 1), (True, 2)])
async def test_a_call_that_meets_a_sending_under_way_is_told_again(
    api: World, is_being_sent: bool, deliveries_made: int
) -> None:
    """What is under way may have arrived before the call, whose caller would then wait for ever."""
    url = "https://hooks.example.com/"
    caller = await api.caller()
    async with api.db.transaction() as conn:
        client_id = caller.client.id
        wish = Wish(NUMBER, url)
        submitted = await submission.submit(conn, wish, client_id, settings=api.settings)
        job = await claim_one(conn)
        assert job
        await conn.execute("update processes set listed_at = now()")
        (destination,) = (await settlement.settle(conn, job)).destinations
    async with api.db.transaction() as conn:
        if is_being_sent:
            assert await _claim_one(conn, destination, hold_s=60)
        again = await submission.submit(conn, wish, client_id, settings=api.settings)
        assert again.job.id == submitted.job.id
        assert await conn.fetchval("select count(*) from deliveries") == deliveries_made


async def test_above_a_hundred_documents_the_webhook_names_the_place_of_the_list(
    world: World, receiver: Receiver
) -> None:
    async with world.db.transaction() as conn:
        client, _ = await clients.ensure(conn, RING, "acme")
        await submission.submit(
            conn, Wish(NUMBER, webhook_url=receiver.url), client.id, settings=world.settings
        )
        job = await claim_one(conn)
        assert job
        await conn.execute(
            """insert into documents
                   (process_number, job_id, portal_uuid, position, name, has_file, secrecy_level)
               select $1, $2, gen_random_uuid(), n, 'a', true, 0 from generate_series(1, 101) n""",
            NUMBER,
            job.id,
        )
        await settlement.settle(conn, job)
    (got,) = await receiver.wait_for(1)
    assert "documents" not in got.event
    assert got.event["documents_url"].endswith(f"/processes/{MASKED}/files")
    assert (got.event["total_documents"], got.event["type"]) == (101, "job.failed")


async def test_what_cannot_be_signed_waits_for_the_key_and_holds_nobody_else_up(
    empty: None, make_settings: MakeSettings, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that was started without the right keys loses nothing."""
    async with open_world(make_settings(secret_keys=new_key())) as wrong:
        await _settled_with_webhook(wrong, receiver.url)
        async with asyncio.timeout(30):
            while "AUTOS_SECRET_KEYS does not hold" not in caplog.text:
                await asyncio.sleep(0.05)
        row = await _delivery(wrong)
        assert (row["status"], row["rounds"], row["attempts"]) == ("pending", 0, 0)
    async with open_world(make_settings()) as right:
        async with right.db.connection() as conn:
            await conn.execute("update deliveries set claimed_until = now()")
        (got,) = await receiver.wait_for(1)
        assert got.event["type"] == "job.cancelled"
