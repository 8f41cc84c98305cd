"""Real worker processes: killed, stopped, and made to carry a gigabyte."""

import asyncio
import hashlib
import signal
from collections import Counter

import pytest

from service.sandbox.cases import Special, special_number
from tests.conftest import MakeSettings
from tests.faults.children import open_worker_process, peak_memory_bytes
from tests.world import Caller, World, open_world

MIB = 1024 * 1024


@pytest.fixture
async def settings(make_settings: MakeSettings) -> object:
    """Few documents at a time, so that a job can be met in its middle; a short lease."""
    return make_settings(downloads_per_job=4, lease_s=2.0, max_crashes=100, drain_s=1.0)


async def _in_the_middle(caller: Caller, number: str) -> set[str]:
    """Wait until some documents are available and some are not; return those that are."""
    async with asyncio.timeout(30):
        while True:
            status = (await caller.get(f"/processes/{number}/status")).json
            available = {one["uuid"] for one in status["documents"] if one["status"] == "available"}
            if 20 < len(available) < status["total_documents"] - 20:
                return available
            assert status["status"] in ("pending", "processing")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_that_ends_in_mid_job_loses_nothing_and_nothing_is_fetched_twice(
    api: World, how: signal.Signals
) -> None:
    number = special_number(Special.THOUSAND)
    caller = await api.caller()
    async with open_worker_process(api.settings) as first:
        await caller.get(f"/processes/{number}")
        available = await _in_the_middle(caller, number)
        first.send_signal(how)
        await first.wait()
    tried = Counter(api.portal.binaries)
    async with open_worker_process(api.settings):
        final = await caller.wait_until_final(number)
    assert (final["status"], final["completed_documents"]) == ("completed", 1000)
    assert {api.portal.binaries[uuid] - tried[uuid] for uuid in available} == {0}
    if how is signal.SIGTERM:
        assert set(api.portal.binaries.values()) <= {1, 2}


async def test_a_job_that_kills_its_worker_every_time_ends_failed(
    empty: None, make_settings: MakeSettings
) -> None:
    """The portal hangs for it, so each worker dies in its middle; other jobs live on."""
    number = special_number(Special.HANGING)
    settings = make_settings(lease_s=2.0, max_crashes=2)
    async with open_world(settings, with_worker=False) as world:
        caller = await world.caller()
        await caller.get(f"/processes/{number}")
        # Each worker's sweep frees the lease of the one before, and claims the job to die of it.
        for times in (1, 2):
            async with open_worker_process(world.settings) as worker:
                await _until_claimed(world, times=times)
                worker.kill()
                await worker.wait()
        async with open_worker_process(world.settings):
            final = await caller.wait_until_final(number)
    assert (final["status"], final["error_code"]) == ("failed", "worker_crashed")


async def _until_claimed(world: World, *, times: int) -> None:
    await world.until("select exists (select from jobs where status = 'processing' and fence >= $1)", times)


@pytest.mark.long
async def test_a_gigabyte_passes_and_the_worker_stays_below_200_mib(api: World) -> None:
    number = special_number(Special.HUGE)
    caller = await api.caller()
    async with open_worker_process(api.settings) as worker:
        await caller.get(f"/processes/{number}")
        final = await caller.wait_until_final(number, timeout_s=180)
        peak = peak_memory_bytes(worker)
    assert final["status"] == "completed"
    huge = max(final["documents"], key=lambda one: one["size"])
    assert huge["size"] == 1024 * MIB
    digest = hashlib.sha256()
    async with api.http.get(huge["download_url"]) as response:
        async for chunk in response.content.iter_chunked(MIB):
            digest.update(chunk)
    assert digest.hexdigest() == huge["sha256"]
    assert peak < 200 * MIB, f"{peak / MIB:.0f} MiB"
