"""Turns: neither a client with many jobs nor a process with many documents keeps anybody else waiting.

What is looked at is order, never time.
"""

import asyncio
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from service.core import clients, jobs, submission
from service.core.db import Database
from service.core.queue import open_queue
from service.core.settings import Settings
from service.core.states import Priority
from service.core.wishes import Wish
from service.sandbox.cases import Special, special_number
from tests.cases import case_numbers
from tests.claims import claim_one
from tests.conftest import MakeSettings
from tests.rings import RING
from tests.world import open_world, until
from worker.claims import open_claims
from worker.places import Places


async def _submit(
    db: Database, settings: Settings, client: str, count: int, *, first: int, priority: Priority
) -> None:
    async with db.transaction() as conn:
        owner, _ = await clients.ensure(conn, RING, client)
        numbers = [number.replace("-", "").replace(".", "") for number in case_numbers(count, first=first)]
        wishes = [Wish(number, priority=priority) for number in numbers]
        await submission.submit_many(conn, wishes, owner.id, settings=settings)


async def _claimed_by(db: Database, *, hand_back: bool = True) -> str | None:
    """Claim a job as a worker does; return the name of its client."""
    async with db.transaction() as conn:
        job = await claim_one(conn)
        if job is None:
            return None
        if hand_back:
            await conn.execute(
                "update jobs set status = 'failed', finished_at = now(), error_code = 'x', "
                "progress_percentage = 100, lease_until = null where id = $1",
                job.id,
            )
        name: str = await conn.fetchval("select name from clients where id = $1", job.client_id)
    return name


NORMAL = Priority.NORMAL
# A sequence keeps what it has counted when the transaction is undone.
_FIRST_TURN_IS_UNDONE = """
    create sequence turn_tries;
    create function undo_first_turn() returns trigger language plpgsql as $$
    begin
        if nextval('turn_tries') = 1 then
            raise exception 'deadlock detected' using errcode = '40P01';
        end if;
        return new;
    end $$;
    create trigger undo_first_turn before insert on turns for each row execute function undo_first_turn()
"""


async def test_clients_take_turns_however_many_jobs_one_has(db: Database, settings: Settings) -> None:
    await _submit(db, settings, "many", 50, first=1_000_000, priority=NORMAL)
    await _submit(db, settings, "few", 3, first=2_000_000, priority=NORMAL)
    await _submit(db, settings, "one", 1, first=3_000_000, priority=NORMAL)
    order = [await _claimed_by(db) for _ in range(9)]
    assert sorted(map(str, order[:3])) == ["few", "many", "one"]
    assert order[3:7].count("few") == 2
    assert set(order[7:]) == {"many"}


async def test_a_client_of_whose_jobs_none_runs_comes_before_one_whose_jobs_run(
    db: Database, settings: Settings
) -> None:
    await _submit(db, settings, "many", 20, first=1_000_000, priority=NORMAL)
    assert [await _claimed_by(db, hand_back=False) for _ in range(5)] == ["many"] * 5
    await _submit(db, settings, "late", 3, first=2_000_000, priority=NORMAL)
    assert [await _claimed_by(db, hand_back=False) for _ in range(4)] == ["late", "late", "late", "many"]


async def test_a_higher_priority_comes_first_and_within_it_the_turns_go_on(
    db: Database, settings: Settings
) -> None:
    await _submit(db, settings, "low", 2, first=1_000_000, priority=Priority.LOW)
    await _submit(db, settings, "mixed", 2, first=2_000_000, priority=NORMAL)
    await _submit(db, settings, "mixed", 2, first=3_000_000, priority=Priority.HIGH)
    await _submit(db, settings, "high", 2, first=4_000_000, priority=Priority.HIGH)
    order = [await _claimed_by(db) for _ in range(8)]
    assert sorted(map(str, order[:2])) == sorted(map(str, order[2:4])) == ["high", "mixed"]
    assert order[4:6] == ["mixed", "mixed"]
    assert order[6:] == ["low", "low"]


async def test_within_a_client_the_oldest_job_comes_first(db: Database, settings: Settings) -> None:
    await _submit(db, settings, "acme", 10, first=1_000_000, priority=NORMAL)
    claimed = []
    for _ in range(10):
        async with db.transaction() as conn:
            job = await claim_one(conn)
            assert job
            claimed.append(job.created_at)
    assert claimed == sorted(claimed)


async def test_workers_that_claim_at_the_same_moment_all_get_a_job(db: Database, settings: Settings) -> None:
    await _submit(db, settings, "one", 1, first=1_000_000, priority=NORMAL)
    await _submit(db, settings, "many", 15, first=2_000_000, priority=NORMAL)
    names = await asyncio.gather(*(_claimed_by(db, hand_back=False) for _ in range(16)))
    assert sorted(map(str, names)) == ["many"] * 15 + ["one"]
    assert await _claimed_by(db) is None


async def test_workers_that_fill_all_their_places_at_the_same_moment_leave_none_empty(
    db: Database, settings: Settings
) -> None:
    await _submit(db, settings, "one", 200, first=1_000_000, priority=NORMAL)
    async with open_queue(settings) as queue:
        workers = [open_claims(db, queue, settings, uuid4()) for _ in range(10)]
        asked = [worker.ask(object()) for _ in range(20) for worker in workers]
        claimed = [job for job in await asyncio.gather(*asked) if job]
    assert len({job.id for job in claimed}) == 200


async def test_who_claims_for_several_clients_locks_them_in_one_order(
    db: Database, settings: Settings
) -> None:
    """Two workers that took them in different orders would wait for each other."""
    for number in range(12):
        await _submit(db, settings, f"client {number}", 1, first=1_000_000 + number, priority=NORMAL)
    async with db.transaction() as conn:
        assert len(await jobs.claim(conn, 12, worker_id=uuid4(), lease_s=60)) == 12
        rows = await conn.fetch("select served_at from turns order by client_id")
    served_at = [row["served_at"] for row in rows]
    assert served_at == sorted(served_at)


async def test_a_claim_that_a_deadlock_undoes_is_made_again(db: Database, settings: Settings) -> None:
    """The ring that it was made for comes only once."""
    await _submit(db, settings, "acme", 1, first=1_000_000, priority=NORMAL)
    async with open_queue(settings) as queue, db.connection() as conn:
        await conn.execute(_FIRST_TURN_IS_UNDONE)
        try:
            claimed = await open_claims(db, queue, settings, uuid4()).ask(object())
        finally:
            await conn.execute("drop sequence turn_tries; drop function undo_first_turn cascade")
    assert claimed


async def test_several_jobs_are_claimed_in_the_turns_of_their_clients(
    db: Database, settings: Settings
) -> None:
    await _submit(db, settings, "many", 20, first=1_000_000, priority=NORMAL)
    await _submit(db, settings, "few", 3, first=2_000_000, priority=NORMAL)
    async with db.transaction() as conn:
        claimed = await jobs.claim(conn, 8, worker_id=uuid4(), lease_s=60)
        names = await conn.fetch(
            "select name, count(*) from clients join jobs on client_id = clients.id "
            "where jobs.id = any($1::uuid[]) group by name",
            [job.id for job in claimed],
        )
    assert {row["name"]: row["count"] for row in names} == {"many": 5, "few": 3}


async def test_a_full_worker_lets_a_large_job_pause_for_a_client_of_whose_jobs_none_runs(
    empty: None, make_settings: MakeSettings
) -> None:
    """All places are taken by a client whose one process alone has a thousand documents."""
    places = 2
    settings = make_settings(jobs_per_worker=places, turn_s=0, sweep_interval_s=0.05, downloads_per_worker=4)
    async with open_world(settings, latency_s=0.01) as world:
        heavy, light = await world.caller("heavy"), await world.caller("light")
        large = special_number(Special.THOUSAND)
        slow = [special_number(Special.SLOW), *case_numbers(places)][: places - 1]
        for number in (large, *slow):
            await heavy.post("/jobs", json={"process_number": number})
        await until(lambda: len(world.portal.binaries) > 10)
        (single,) = case_numbers(1, first=5_000_000)
        await light.post("/jobs", json={"process_number": single})
        ended = await light.wait_until_final(single)
        assert ended["status"] == "completed"
        status = (await heavy.get(f"/processes/{large}/status?fields=summary")).json
        assert status["status"] in ("pending", "processing")
        while status["completed_at"] is None:
            status = (await heavy.get(f"/processes/{large}/status?fields=summary&wait=60")).json
        assert (status["status"], status["completed_documents"]) == ("completed", 1000)
        assert max(world.portal.binaries.values()) == 1


# Places -------------------------------------------------------------------------------------------


async def _order(places: Places, wishes: list[UUID]) -> list[UUID]:
    """Return the clients in the order in which they got a place, when all wished while it was taken."""
    served: list[UUID] = []

    async def hold(client_id: UUID) -> None:
        async with places.of(client_id):
            served.append(client_id)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group, places.of(uuid4()):
        for client_id in wishes:
            group.create_task(hold(client_id))
        await asyncio.sleep(0)
    return served


A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)


async def test_downloads_of_clients_take_turns() -> None:
    assert await _order(Places(1), [A] * 6 + [B] * 2 + [C]) == [A, B, C, A, B, A, A, A, A]


@given(
    count=st.integers(1, 4),
    steps=st.lists(st.tuples(st.sampled_from([A, B, C]), st.booleans()), max_size=30),
)
@settings(max_examples=100, deadline=None)
def test_a_place_is_never_lost_nor_given_twice_whoever_gives_up_waiting(
    count: int, steps: list[tuple[UUID, bool]]
) -> None:
    async def play() -> None:
        places, held, most = Places(count), 0, 0

        async def hold(client_id: UUID) -> None:
            nonlocal held, most
            async with places.of(client_id):
                held += 1
                most = max(most, held)
                try:
                    await asyncio.sleep(0)
                finally:
                    held -= 1

        tasks = []
        for client_id, gives_up in steps:
            task = asyncio.create_task(hold(client_id))
            tasks.append(task)
            await asyncio.sleep(0)
            if gives_up:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= count
        async with asyncio.timeout(5):
            # All places are still there.
            async with asyncio.TaskGroup() as group:
                everybody = asyncio.Barrier(count)

                async def meet() -> None:
                    async with places.of(A):
                        await everybody.wait()

                for _ in range(count):
                    group.create_task(meet())

    asyncio.run(play())
