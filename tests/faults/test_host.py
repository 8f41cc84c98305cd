"""The host is short of something: files, a temporary folder, time."""

import asyncio
import resource
from collections import Counter
from pathlib import Path

import asyncpg

from service.sandbox.cases import Special, special_number
from tests.conftest import MakeSettings
from tests.faults.members import Member, open_member
from tests.world import World, open_world


async def test_a_worker_with_256_file_descriptors_does_all_its_work(api: World, tmp_path: Path) -> None:
    numbers = [special_number(1_000_000 + n) for n in range(12)] + [special_number(Special.THOUSAND)]
    caller = await api.caller()
    log = tmp_path / "worker.log"
    async with open_member("worker", api.settings, log) as worker:
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (256, 256))
        for number in numbers:
            await caller.get(f"/processes/{number}")
        for number in numbers:
            assert (await caller.wait_until_final(number))["status"] == "completed"
    assert "Too many open files" not in log.read_text()


async def test_nothing_is_written_into_temporary_folders(api: World, tmp_path: Path) -> None:
    """Where they should be there are none: a full one would be no better."""
    member = Member("worker", api.settings, tmp_path / "worker.log")
    nowhere = dict.fromkeys(("TMPDIR", "TEMP", "TMP", "HOME"), "/nonexistent")
    caller = await api.caller()
    await member.start(variables=nowhere)
    try:
        number = special_number(Special.LARGE)
        await caller.get(f"/processes/{number}")
        assert (await caller.wait_until_final(number))["status"] == "completed"
    finally:
        await member.stop()


async def test_more_load_than_it_can_bear_is_refused_with_503_and_does_no_lasting_harm(
    empty: None, make_settings: MakeSettings, database_url: str
) -> None:
    """What each call begins with is locked by somebody for a while, and there are hundreds of callers."""
    async with open_world(make_settings(), with_worker=False) as api:
        caller = await api.caller()
        numbers = [special_number(1_000_000 + n) for n in range(300)]

        async def submit(number: str) -> int:
            return (await caller.post("/jobs", json={"process_number": number})).status

        somebody = await asyncpg.connect(database_url)
        async with somebody.transaction():
            await somebody.execute("lock table api_keys in access exclusive mode")
            overload = [asyncio.create_task(submit(number)) for number in numbers]
            await asyncio.wait(overload, return_when=asyncio.FIRST_COMPLETED)
        await somebody.close()
        statuses = Counter([await task for task in overload])
        assert set(statuses) <= {202, 503}
        assert statuses[503] > 0
        assert await submit(numbers[0]) == 202
        async with api.db.connection() as conn:
            assert await conn.fetchval("select count(*) from jobs") >= statuses[202]
