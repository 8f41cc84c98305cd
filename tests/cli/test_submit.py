"""Asking for processes on the command line: once, many times, over a bad line, and with a wrong wish."""

from dataclasses import replace

import pytest
from aiohttp import web

from service.sandbox.cases import Special, special_number
from tests.cases import case_numbers
from tests.cli.front import Front
from tests.cli.programs import CommandLine
from tests.world import Caller, World

CASE = "1003579-22.2025.8.26.0564"


async def test_a_process_is_followed_to_its_end_with_what_was_wished_for_it(
    cli: CommandLine, caller: Caller
) -> None:
    ran = await cli.run(
        "submit", CASE, "--follow", "--reference", "my own", "--priority", "high", "--max-age", "60"
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines[0].startswith(f"{CASE}  pending  ")
    assert ran.lines[-1].startswith(f"{CASE}  completed  26/26 documents, 6.2 MB")
    (job,) = (await caller.get("/jobs")).json["items"]
    assert (job["reference"], job["priority"]) == ("my own", "high")
    assert str(job["job_id"]) in ran.lines[0]


async def test_without_a_terminal_nobody_waits_unless_he_says_so(cli: CommandLine) -> None:
    ran = await cli.run("submit", special_number(Special.SLOW))
    assert ran.status == 0
    assert len(ran.lines) == 1


@pytest.mark.parametrize(
    ("special", "status", "words"),
    [
        (Special.UNKNOWN, "failed", "not_found"),
        (Special.CODEX_SOME, "partial", "7/10, 3 failed documents"),
        (Special.CODEX_ALL, "failed", "all_documents_failed"),
    ],
)
async def test_the_exit_status_says_that_a_job_did_not_bring_everything(
    cli: CommandLine, special: Special, status: str, words: str
) -> None:
    ran = await cli.run("submit", special_number(special), "--follow")
    assert ran.status == 1
    assert ran.lines[-1].startswith(f"{special_number(special)}  {status}  ")
    assert words in ran.lines[-1]


async def test_each_of_many_numbers_has_a_line_and_a_refused_one_says_why(cli: CommandLine) -> None:
    wrong = "1003579-23.2025.8.26.0564"
    ran = await cli.run("submit", "-", special_number(Special.EMPTY), stdin=f"{CASE}\n\n  {wrong} \n")
    assert ran.status == 1
    first, second, third = ran.lines
    assert first.startswith(f"{CASE}  pending  ")
    assert second == (
        f"{wrong}  refused  Not a CNJ process number: its check digits are 23, they should be 22"
    )
    assert third.startswith(f"{special_number(Special.EMPTY)}  pending  ")
    assert "2 of 3 processes are taken, 1 refused" in ran.err


async def test_thousands_go_in_batches_each_of_which_is_one_request(api: World) -> None:
    caller = await api.caller()
    numbers = case_numbers(2_100)
    cli = CommandLine(api.settings, api.base_url, caller.key)
    ran = await cli.run("submit", "-", stdin="\n".join(numbers))
    assert ran.status == 0, ran.err
    assert [line.split()[0] for line in ran.lines] == numbers
    async with api.db.connection() as conn:
        sizes = await conn.fetch("select count(*) from batch_items group by batch_id order by 1")
        jobs = await conn.fetch("select id from jobs")
    assert [size["count"] for size in sizes] == [100, 1000, 1000]
    assert {line.split()[2] for line in ran.lines} == {str(job["id"]) for job in jobs}


@pytest.mark.parametrize("numbers", [[CASE], case_numbers(3)], ids=["one", "batch"])
async def test_a_submission_whose_answer_is_lost_is_sent_again_and_written_once(
    cli_at_front: CommandLine, front: Front, caller: Caller, numbers: list[str]
) -> None:
    front.matches, front.loses = "^POST", 1
    ran = await cli_at_front.run("submit", *numbers)
    assert (ran.status, len(ran.lines)) == (0, len(numbers))
    assert "trying again" in ran.err
    first, again = front.asked("^POST")
    assert (first.is_whole, again.is_whole) == (False, True)
    assert first.headers["Idempotency-Key"] == again.headers["Idempotency-Key"]
    assert again.answered["Idempotent-Replayed"] == "true"
    assert len((await caller.get("/jobs")).json["items"]) == len(numbers)


async def test_two_submissions_are_two_wishes(cli_at_front: CommandLine, front: Front) -> None:
    for _ in range(2):
        assert (await cli_at_front.run("submit", CASE)).status == 0
    first, second = front.asked("^POST")
    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_wish_for_patience_is_heeded(cli_at_front: CommandLine, front: Front, status: int) -> None:
    async def later(_request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": "1"})

    front.matches, front.faults = "^POST", [later]
    ran = await cli_at_front.run("submit", CASE)
    assert (ran.status, len(ran.lines)) == (0, 1)
    assert "trying again in 1 s" in ran.err
    assert [one.status for one in front.asked("^POST")] == [status, 202]


async def test_a_wish_for_more_patience_than_anybody_has_is_an_error(
    cli_at_front: CommandLine, front: Front
) -> None:
    async def tomorrow(_request: web.Request) -> web.Response:
        body = {
            "type": "https://autos.example/problems/rate-limited",
            "title": "Too many requests with this key",
            "status": 429,
            "detail": "come back tomorrow",
            "instance": "/jobs",
        }
        return web.json_response(body, status=429, headers={"Retry-After": "86400"})

    front.matches, front.faults = "^POST", [tomorrow]
    ran = await cli_at_front.run("submit", CASE)
    assert ran.status == 1
    assert ran.err == "autos: Too many requests with this key: come back tomorrow\n"


async def test_a_problem_is_shown_in_the_words_of_the_api_with_where_it_is(cli: CommandLine) -> None:
    ran = await cli.run("submit", "1003579-23.2025.8.26.0564")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        "autos: Not a CNJ process number: its check digits are 23, they should be 22 (#/process_number)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", CASE, CASE, "--follow"), "--follow goes with one number"),
        (("submit", "-"), "no process number was given"),
        (("submit", "1" * 65), "this is no process number"),
        (("submit", CASE, "--priority", "urgent"), "invalid choice"),
        (("submit", CASE, "--max-age", "-1"), "should be 0 to 31536000"),
        (("download", CASE, "--to", "x", "--parallel", "0"), "should be 1 to 32"),
        (("deliveries", "redeliver"), "redeliver takes the id of one delivery"),
        (("deliveries", "redeliver", "--failed"), "--failed and --since go together"),
        (("deliveries", "redeliver", "--failed", "--since", "yesterday"), "should be like 2026-03-02T12"),
        (("status", CASE, "--url", "ftp://autos.example"), "has to be http://… or https://…"),
        (("status", CASE, "--url", "http://me:hidden@autos.example"), "without user name"),
    ],
)
async def test_what_cannot_be_meant_ends_with_status_2_before_anything_is_asked(
    cli: CommandLine, arguments: tuple[str, ...], words: str
) -> None:
    ran = await cli.run(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert words in ran.err
    assert "hidden" not in ran.err


async def test_without_a_key_nothing_is_asked(cli: CommandLine) -> None:
    ran = await replace(cli, key="").run("status", CASE)
    assert (ran.status, ran.err) == (2, "autos: there is no API key: set AUTOS_KEY\n")


async def test_the_options_win_over_the_environment(cli: CommandLine) -> None:
    elsewhere = CommandLine(cli.settings, "http://127.0.0.1:1", "autos_other_key")
    ran = await elsewhere.run("submit", CASE, "--url", cli.url, "--key", cli.key)
    assert ran.status == 0, ran.err


@pytest.mark.parametrize(
    "key", ["autos_other_key", "autos_live_abcdefghij_mistyped", "chave-de-ação", "two words"]
)
async def test_no_key_is_ever_shown(cli: CommandLine, key: str) -> None:
    """Neither one that is refused, nor one that cannot be sent, nor one behind a mistyped option."""
    for arguments in (("status", CASE), ("submit", CASE), ("watch",), ("deliveries",)):
        ran = await replace(cli, key=key).run(*arguments)
        assert ran.status in (1, 2)
        assert key not in ran.out + ran.err
    ran = await replace(cli, url="http://127.0.0.1:1", key=key).run("deliveries", "redeliver", CASE)
    assert key not in ran.out + ran.err
    if key.startswith("autos_"):
        ran = await cli.run("status", CASE, "--ket", key)
        assert (ran.status, key in ran.err) == (2, False)


async def test_an_api_that_repeats_the_key_does_not_get_it_shown(
    cli_at_front: CommandLine, front: Front
) -> None:
    async def repeat(request: web.Request) -> web.Response:
        said = f"what is {request.headers['X-API-Key']}? \x1b]0;owned\x07"
        problem = {"type": "x", "title": said, "status": 400, "detail": said, "instance": "/"}
        return web.json_response(problem, status=400)

    front.faults = [repeat]
    ran = await cli_at_front.run("status", CASE)
    assert ran.status == 1
    assert cli_at_front.key not in ran.err
    assert "what is [the key]?" in ran.err
    assert "\x1b" not in ran.err


async def test_something_else_than_the_api_is_told_from_it(cli_at_front: CommandLine, front: Front) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<html>welcome</html>", content_type="text/html")

    async def failure(_request: web.Request) -> web.Response:
        return web.Response(text="<html>oh no</html>", status=418)

    front.faults = [page, failure]
    for words in ("something else than expected", "answered with the status 418"):
        ran = await cli_at_front.run("status", CASE)
        assert ran.status == 1
        assert words in ran.err
        assert len(ran.err.splitlines()) == 1


async def test_an_api_that_moved_to_https_is_not_followed_and_the_key_is_said_to_have_been_seen(
    cli_at_front: CommandLine, front: Front
) -> None:
    async def moved(request: web.Request) -> web.Response:
        return web.Response(status=301, headers={"Location": f"https://autos.example{request.path_qs}"})

    front.faults = [moved] * 3
    for arguments in (("status", CASE), ("submit", CASE), ("watch",)):
        ran = await cli_at_front.run(*arguments)
        assert (ran.status, len(ran.err.splitlines())) == (1, 1)
        assert "has moved to https://autos.example: name it by" in ran.err
        assert "the key has been sent in clear text" in ran.err


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [(("-",), "\udcff\udcfe"), ((CASE, "--reference", "\udcff"), "")],
    ids=["stdin", "option"],
)
async def test_bytes_that_are_no_text_are_refused_in_words(
    cli: CommandLine, arguments: tuple[str, ...], stdin: str
) -> None:
    ran = await cli.run("submit", *arguments, stdin=stdin)
    assert (ran.status, ran.err) == (2, "autos: what was given is no text in UTF-8\n")
    ran = await cli.run("status", "\udcff")
    assert (ran.status, len(ran.err.splitlines())) == (1, 1)


async def test_the_status_is_shown_for_people_and_for_programs(cli: CommandLine) -> None:
    await cli.run("submit", CASE, "--follow", "--reference", "\N{SNOWMAN}")
    shown = await cli.run("status", CASE, "--documents")
    assert shown.status == 0
    assert "reference  \N{SNOWMAN}" in shown.lines
    assert sum("  available " in line for line in shown.lines) == 26
    assert shown.lines[-26].endswith("Petição Inicial")
    written = await cli.run("status", CASE, "--json")
    assert '"status": "completed"' in written.out
    assert written.out.isascii()
    assert (await cli.run("status", special_number(Special.EMPTY))).status == 1
