"""Watching: streams that break off, all jobs at once, and a terminal of any width."""

import re

from aiohttp import web

from service.sandbox.cases import Special, special_number
from tests.cases import case_numbers
from tests.cli.front import Front, open_front
from tests.cli.programs import CommandLine
from tests.world import Caller, World, until

CASE = "1003579-22.2025.8.26.0564"
A_JOB_EVENT = re.compile(rb"\nid: \d+\nevent: job\n.*\n\n|^id: \d+\nevent: job\n.*\n\n")


async def test_a_stream_that_is_cut_is_taken_up_where_it_ended(api: World) -> None:
    caller = await api.caller()
    job_id = (await caller.post("/jobs", json={"process_number": CASE})).json["job_id"]
    async with open_front(api.base_url) as front:
        front.matches, front.cuts = "/events$", [A_JOB_EVENT, A_JOB_EVENT, 0]
        async with CommandLine(api.settings, front.url, caller.key).started("watch", CASE) as running:
            for connections in (1, 2, 3):
                await until(lambda: len(front.asked("/events$")) == connections)  # noqa: B023
                async with api.db.connection() as conn:
                    await conn.execute("update jobs set downloaded_bytes = downloaded_bytes + 1000")
            await caller.post(f"/jobs/{job_id}/cancel")
            await running.read_until(f"{CASE}  cancelled")
            assert await running.process.wait() == 1
        asked = [one.headers.get("Last-Event-ID") for one in front.asked("/events$")]
    # The third connection brought nothing.
    assert asked == [None, "1", "2", "2"]


async def test_an_api_that_is_away_for_a_moment_ends_no_watch(
    cli_at_front: CommandLine, front: Front
) -> None:
    async def away(_request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "0"})

    front.matches, front.faults = "/events$", [away, away]
    ran = await cli_at_front.run("submit", CASE, "--follow")
    assert ran.status == 0, ran.err
    assert [one.status for one in front.asked("/events$")] == [503, 503, 200]


async def test_a_stream_that_says_nothing_more_is_believed(cli_at_front: CommandLine, front: Front) -> None:
    async def no_more(_request: web.Request) -> web.Response:
        return web.Response(status=204)

    front.matches, front.faults = "/events$", [no_more]
    ran = await cli_at_front.run("submit", special_number(Special.SLOW), "--follow")
    assert ran.status == 1
    assert re.search("  (pending|processing)  ", ran.lines[-1])


async def test_one_process_is_watched_to_its_end(cli: CommandLine) -> None:
    unknown = await cli.run("watch", CASE)
    assert (unknown.status, unknown.err) == (
        1,
        f"autos: you have not asked for {CASE} yet: submit it first\n",
    )
    await cli.run("submit", CASE)
    ran = await cli.run("watch", CASE)
    assert ran.status == 0
    assert ran.lines[-1].startswith(f"{CASE}  completed  26/26")


async def test_every_change_of_all_jobs_is_a_line_until_it_is_interrupted(
    cli: CommandLine, caller: Caller
) -> None:
    slow = special_number(Special.SLOW)
    await caller.post("/jobs", json={"process_number": slow})
    async with cli.started("watch") as running:
        # One that was there before, and one that comes later.
        assert slow in await running.read_until(slow)
        await caller.post("/jobs", json={"process_number": CASE})
        assert "100 %  26/26" in await running.read_until(f"{CASE}  completed")
        ended = await running.interrupt()
    assert (ended.status, ended.err) == (130, "")


async def test_lost_connections_do_not_make_a_watch_of_all_jobs_miss_any(
    cli_at_front: CommandLine, caller: Caller, front: Front
) -> None:
    front.matches, front.cuts = "/events$", [re.compile(rb"event: job\n.*\n\n") for _ in range(3)]
    numbers, slow = case_numbers(5), special_number(Special.SLOW)
    await caller.post("/jobs", json={"process_number": slow})
    async with cli_at_front.started("watch") as running:
        await running.read_until(slow)
        await caller.post("/jobs/batch", json={"process_numbers": numbers})
        for number in numbers:
            await caller.wait_until_final(number)
        missing = set(numbers)
        while missing:
            line = await running.read_until("  completed ")
            missing -= {line.split()[0]}
        await running.interrupt()
    assert not front.cuts


async def test_on_a_terminal_progress_is_one_line_that_fits_and_goes_at_the_end(cli: CommandLine) -> None:
    number = special_number(Special.SLOW)
    for columns in (100, 40, 12):
        ran = await cli.run_on_terminal("submit", number, "--follow", "--max-age", "0", columns=columns)
        assert ran.status == 0, ran.err
        asked, *drawn, end = re.split(r"[\r\n]+", ran.out.strip())
        assert asked.startswith(f"{number}  ")
        assert end.removeprefix("\x1b[K").startswith(f"{number}  completed")
        lines = [line.removesuffix("\x1b[K") for line in drawn]
        assert lines
        assert all(len(line) < columns for line in lines)
        assert any("[" in line and " %" in line for line in lines) == (columns == 100)
