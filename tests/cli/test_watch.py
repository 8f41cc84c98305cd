"""Watching: streams that break off, all jobs at once, and a terminal of any width."""

import re
import signal

import pytest
from aiohttp import web

from service.cli.api import Api, open_api
from service.cli.errors import RefusedCallError, UnreachableError
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


async def test_every_change_of_all_jobs_is_a_line_until_it_is_interrupted(api: World) -> None:
    caller = await api.caller()
    before, later = case_numbers(2)
    await _submit(caller, before)
    async with CommandLine(api.settings, api.base_url, caller.key).started("watch") as running:
        assert (await running.read_until(before)).endswith("pending       0 %  0/0")
        job_id = await _submit(caller, later)
        await caller.post(f"/jobs/{job_id}/cancel")
        assert "  100 %  0/0  cancelled: " in await running.read_until(f"{later}  cancelled")
        ended = await running.interrupt()
    assert (ended.status, ended.err) == (130, "")


async def test_lost_connections_do_not_make_a_watch_of_all_jobs_miss_any(api: World) -> None:
    """Jobs begin and end while nobody listens."""
    caller = await api.caller()
    first, *numbers = case_numbers(4)
    await _submit(caller, first)
    async with open_front(api.base_url) as front:
        front.matches, front.cuts = "/events$", [re.compile(rb"event: job\n.*\n\n") for _ in numbers]
        async with CommandLine(api.settings, front.url, caller.key).started("watch") as running:
            await running.read_until(first)
            for lost, number in enumerate(numbers):
                await until(lambda: len(front.asked("/events$")) >= lost)  # noqa: B023
                job_id = await _submit(caller, number)
                await caller.post(f"/jobs/{job_id}/cancel")
            missing = {*numbers}
            while missing:
                missing -= {(await running.read_until("  cancelled ")).split()[0]}
            await running.interrupt()


async def _submit(caller: Caller, number: str) -> str:
    job_id: str = (await caller.post("/jobs", json={"process_number": number})).json["job_id"]
    return job_id


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


async def test_on_a_terminal_all_jobs_are_a_table_that_fits_and_is_written_over(api: World) -> None:
    caller = await api.caller()
    await caller.post("/jobs/batch", json={"process_numbers": case_numbers(12)})
    cli = CommandLine(api.settings, api.base_url, caller.key)
    async with cli.on_terminal("watch", columns=48, rows=6) as terminal:
        await terminal.wait_for("  pending  ")
        newest = await _submit(caller, CASE)
        await caller.post(f"/jobs/{newest}/cancel")
        await terminal.wait_for(f"{CASE}  cancelled")
        ran = await terminal.end(by=signal.SIGINT)
    assert (ran.status, ran.err) == (130, "")
    # Each time the cursor goes up over what was drawn before: five lines, one less than there are.
    assert re.findall(r"\x1b\[(\d+)F", ran.out) == ["5"]
    drawn = [re.sub(r"\x1b\[\d*[FJK]", "", line) for line in re.split(r"[\r\n]+", ran.out)]
    assert len(drawn) == 2 * 5 + 1
    assert all(len(line) < 48 for line in drawn)


async def test_an_api_that_stays_away_is_given_up(api: World) -> None:
    async def later(_request: web.Request) -> web.Response:
        return web.Response(text="retry: 1\n\n", content_type="text/event-stream")

    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "0"})

    async with open_front(api.base_url) as front:
        front.faults = [later, busy]
        async with open_api(front.url, "autos_some_key", patience_s=0) as impatient:
            for kind in (UnreachableError, RefusedCallError):
                with pytest.raises(kind):
                    await _follow(impatient)
        async with open_api("http://127.0.0.1:1", "autos_some_key", patience_s=0) as impatient:
            with pytest.raises(UnreachableError, match="Connect"):
                await _follow(impatient)
            with pytest.raises(UnreachableError, match="Connect"):
                await impatient.get_raw("/jobs")


async def _follow(api: Api) -> None:
    """Follow the stream of all jobs to its end."""
    async for _ in api.follow("/events"):
        pass
