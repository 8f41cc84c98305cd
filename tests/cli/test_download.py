"""Saving a process in a folder: whole, verified, taken up again, and nowhere else than there."""

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import web
from yarl import URL

from service.cli.api import open_api
from service.cli.errors import CallError
from service.cli.fetching import Wanted, save
from service.cli.part_file import open_part
from service.sandbox.cases import Special, expected_documents, special_number
from tests.cli.front import Front, open_front
from tests.cli.programs import CommandLine, Ran
from tests.conftest import MakeSettings
from tests.core.s3_servers import error
from tests.faults.children import ROOT
from tests.s3 import open_client
from tests.world import Caller, World, open_world

CASE = "1003579-22.2025.8.26.0564"
LARGEST = "0030 - Despacho.html"
SIZE = 1_398_490
_GET = "^GET /autos-test/"


@dataclass
class Place:
    """A world whose links lead through a front, and a folder to save in."""

    world: World
    caller: Caller
    store: Front
    cli: CommandLine
    folder: Path

    @property
    def largest(self) -> Path:
        """The largest document of the case."""
        return self.folder / LARGEST

    @property
    def part(self) -> Path:
        """Where it is written as long as it is not whole."""
        return self.folder / f"{LARGEST}.part"

    async def download(self, number: str = CASE, *options: str) -> Ran:
        """Save the case."""
        return await self.cli.run("download", number, "--to", str(self.folder), *options)

    def saved(self) -> dict[str, str]:
        """What lies in the folder, each file with its hash."""
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(self.folder.iterdir())
        }

    def beside_the_folder(self) -> list[str]:
        """What else lies where the folder does."""
        return [path.name for path in self.folder.parent.iterdir() if path != self.folder]

    def ranges(self) -> list[str | None]:
        """Which part was asked for with each request to the store."""
        return [one.headers.get("Range") for one in self.store.asked(_GET)]


@pytest.fixture
async def place(empty: None, make_settings: MakeSettings, tmp_path: Path) -> AsyncIterator[Place]:
    """A place with nothing in it."""
    async with open_front() as store:
        settings = make_settings(s3_public_url=store.url)
        assert settings.s3_endpoint_url
        store.target, store.matches = settings.s3_endpoint_url, _GET
        async with open_world(settings) as world:
            caller = await world.caller()
            cli = CommandLine(world.settings, world.base_url, caller.key)
            yield Place(world, caller, store, cli, tmp_path / "case")


@pytest.fixture
async def whole(place: Place) -> Place:
    """A place whose case is there to be downloaded."""
    await place.caller.post("/jobs", json={"process_number": CASE})
    await place.caller.wait_until_final(CASE)
    return place


@pytest.fixture
async def single(place: Place) -> Place:
    """A place where only the largest document of the case is there to be downloaded."""
    (uuid,) = [one.uuid for one in expected_documents(CASE) if one.size == SIZE]
    await place.caller.post("/jobs", json={"process_number": CASE, "filter": {"ids": [uuid]}})
    await place.caller.wait_until_final(CASE)
    place.folder.mkdir()
    return place


def _hashes(number: str = CASE) -> set[str]:
    return {one.sha256 for one in expected_documents(number) if one.is_served}


def _assert_largest_is_right(place: Place, ran: Ran) -> None:
    assert (ran.status, ran.err) == (0, "")
    (saved,) = place.saved().items()
    assert saved[0] == LARGEST
    assert saved[1] in _hashes()


async def test_every_document_is_there_under_a_name_of_its_own_and_nothing_else(whole: Place) -> None:
    """Among the court's names are `../../Certidao\\de publicacao.pdf` and one that is too long."""
    ran = await whole.download()
    assert ran.status == 0, ran.err
    assert ran.lines[-1].endswith("case: 26 fetched, 0 were there already, 0 missing")
    saved = whole.saved()
    assert len(saved) == 26
    assert set(saved.values()) == _hashes()
    assert {"0001 - Petição Inicial.pdf", "0005 - Certidao de publicacao.pdf", LARGEST} <= set(saved)
    assert whole.beside_the_folder() == []
    # The store never sees the key, nor does the output hold a link.
    assert len(whole.store.seen) == 26
    assert not any(whole.cli.key in str(one.headers) for one in whole.store.seen)
    assert "X-Amz" not in ran.out + ran.err


async def test_what_is_there_and_right_is_not_fetched_again_and_what_is_wrong_is(whole: Place) -> None:
    await whole.download()
    whole.store.seen.clear()
    whole.largest.write_bytes(b"x" * SIZE)
    (whole.folder / "0002 - Despacho.html").unlink()
    ran = await whole.download()
    assert ran.lines[-1].endswith("case: 2 fetched, 24 were there already, 0 missing")
    assert len(whole.store.seen) == 2
    assert set(whole.saved().values()) == _hashes()


async def test_it_waits_for_a_job_that_is_still_running_and_asks_only_if_it_should(place: Place) -> None:
    number = special_number(Special.SLOW)
    unasked = await place.download(number)
    assert (unasked.status, unasked.out) == (1, "")
    assert unasked.err == f"autos: you have not asked for {number} yet: --submit asks for it first\n"
    assert not place.folder.exists()
    for _ in range(2):
        ran = await place.download(number, "--submit", "--parallel", "2")
        assert ran.status == 0, ran.err
        assert set(place.saved().values()) == _hashes(number)
        assert len((await place.caller.get("/jobs")).json["items"]) == 1


async def test_a_file_that_is_cut_in_the_middle_goes_on_where_it_ended(single: Place) -> None:
    single.store.cuts = [700_000, 300_000]
    _assert_largest_is_right(single, await single.download())
    assert single.ranges() == [None, "bytes=700000-", "bytes=1000000-"]


async def test_what_an_earlier_run_has_left_is_taken_up(single: Place) -> None:
    whole = await _body(single)
    single.part.write_bytes(whole[:1_000_000])
    _assert_largest_is_right(single, await single.download())
    assert single.ranges() == ["bytes=1000000-"]
    single.store.seen.clear()
    single.largest.rename(single.part)
    _assert_largest_is_right(single, await single.download())
    assert single.ranges() == []


@pytest.mark.parametrize("size", [1_000_000, SIZE, SIZE + 1], ids=["half", "whole", "too long"])
async def test_what_an_earlier_run_has_left_wrong_is_given_up(single: Place, size: int) -> None:
    single.part.write_bytes(b"x" * size)
    _assert_largest_is_right(single, await single.download())
    assert single.ranges()[-1] is None


async def test_a_store_that_knows_no_ranges_sends_all_of_it_again(single: Place) -> None:
    single.store.cuts, single.store.ignored = [700_000], {"Range"}
    _assert_largest_is_right(single, await single.download())
    assert single.ranges() == [None, "bytes=700000-"]


async def test_a_store_that_sends_another_part_is_asked_anew(single: Place) -> None:
    async def another(request: web.Request) -> web.Response:
        headers = {"Content-Range": f"bytes 5-{SIZE - 1}/{SIZE}"}
        return web.Response(status=206, body=b"x" * 100, headers=headers)

    async def none(_request: web.Request) -> web.Response:
        return error(416, "InvalidRange")

    for fault in (another, none):
        single.largest.unlink(missing_ok=True)
        single.store.seen.clear()
        single.part.write_bytes(b"x" * 700_000)
        single.store.faults = [fault]
        _assert_largest_is_right(single, await single.download())
        assert single.ranges() == ["bytes=700000-", None]


async def test_wrong_bytes_are_never_kept(single: Place) -> None:
    single.store.is_spoiled = True
    ran = await single.download()
    assert ran.status == 1
    assert ran.err == f"missing  {LARGEST}: its bytes are not those that it should have\n"
    assert ran.lines[-1].endswith("case: 0 fetched, 0 were there already, 1 missing")
    assert not single.largest.exists()
    assert single.part.stat().st_size == 0


async def test_a_body_without_an_end_is_cut_where_the_document_ends(single: Place) -> None:
    single.store.is_endless = True
    ran = await single.download()
    assert ran.status == 1
    assert ran.err == f"missing  {LARGEST}: more than its {SIZE} bytes came\n"
    assert single.part.stat().st_size == 0


async def test_a_link_that_has_expired_is_replaced_by_a_fresh_one(single: Place) -> None:
    async def expired(_request: web.Request) -> web.Response:
        return error(403, "AccessDenied")

    async with open_front(single.world.base_url) as api:
        single.store.faults = [expired]
        ran = await CommandLine(single.world.settings, api.url, single.caller.key).run(
            "download", CASE, "--to", str(single.folder)
        )
        _assert_largest_is_right(single, ran)
        assert [one.status for one in api.asked("/content$")] == [302]


async def test_a_document_whose_file_has_vanished_is_missing_and_holds_up_no_other(whole: Place) -> None:
    async with whole.world.db.connection() as conn:
        key = await conn.fetchval("select object_key from documents where position = 30")
    async with open_client(whole.world.settings) as s3:
        await s3.delete_object(Bucket=whole.world.settings.bucket, Key=key)
    ran = await whole.download()
    assert ran.status == 1
    assert ran.err.startswith(f"missing  {LARGEST}: The file of the document is gone: ")
    assert ran.lines[-1].endswith("case: 25 fetched, 0 were there already, 1 missing")
    assert len(_right_ones(whole)) == 25


def _right_ones(place: Place) -> set[str]:
    return set(place.saved().values()) & _hashes()


async def test_documents_that_the_court_does_not_give_are_missing_with_the_reason(place: Place) -> None:
    number = special_number(Special.CODEX_SOME)
    ran = await place.download(number, "--submit")
    assert ran.status == 1
    *missing, end = ran.err.splitlines()
    assert len(missing) == 3
    assert end.startswith("autos: this may not be all, since the newest job did not complete: ")
    assert all(line.startswith("missing  ") and ": codex_error: " in line for line in missing)
    assert set(place.saved().values()) == _hashes(number)


async def test_what_an_earlier_job_brought_in_is_saved_and_not_called_all_when_the_newest_did_not_complete(
    whole: Place,
) -> None:
    whole.world.portal.outage = 503
    newest = await whole.caller.post("/jobs", json={"process_number": CASE, "force_refresh": True})
    assert (await whole.caller.post(f"/jobs/{newest.json['job_id']}/cancel")).status == 200
    ran = await whole.download()
    assert (ran.status, len(whole.saved())) == (1, 26)
    assert ran.err.startswith("autos: this may not be all, since the newest job did not complete: ")
    assert "cancelled" in ran.err


async def test_who_has_read_enough_of_its_output_ends_it_quietly(whole: Place) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "download", CASE, "--to", str(whole.folder)),
        env=whole.cli.environ(),
        cwd=ROOT,
        stdout=theirs,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(theirs)
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (1, "")
    # Its first word ended it: no more was asked for than at once.
    assert len(whole.store.seen) <= 4


@pytest.mark.parametrize(
    ("special", "status", "words"), [(Special.UNKNOWN, 1, "not_found"), (Special.EMPTY, 0, "completed")]
)
async def test_a_process_without_documents_makes_no_folder(
    place: Place, special: Special, status: int, words: str
) -> None:
    ran = await place.download(special_number(special), "--submit")
    assert ran.status == status
    assert words in ran.lines[-1]
    assert not place.folder.exists()


async def test_a_link_in_the_folder_is_not_followed_out_of_it(single: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    single.part.symlink_to(outside)
    ran = await single.download()
    assert ran.status == 1
    assert ran.err.startswith(f"missing  {LARGEST}: it cannot be written: ")
    single.part.unlink()
    single.largest.symlink_to(outside)
    _assert_largest_is_right(single, await single.download())
    assert not single.largest.is_symlink()
    assert outside.read_bytes() == b"untouched"


async def test_what_cannot_be_written_is_said_and_holds_up_no_other(whole: Place) -> None:
    (whole.folder / f"{LARGEST}.part").mkdir(parents=True)
    ran = await whole.download()
    assert ran.status == 1
    assert ran.err == f"missing  {LARGEST}: it cannot be written: Is a directory\n"
    assert "25 fetched" in ran.lines[-1]


async def test_a_place_that_is_no_folder_is_one_clear_line(single: Place) -> None:
    single.folder.rmdir()
    single.folder.write_text("a file")
    ran = await single.download()
    assert (ran.status, len(ran.err.splitlines())) == (1, 1)
    assert ran.err.startswith("autos: ")


async def test_a_file_that_another_download_is_writing_is_left_to_it(single: Place) -> None:
    with open_part(single.largest) as part:
        part.write(b"x" * 100)
        ran = await single.download()
        assert ran.err == f"missing  {LARGEST}: another download is writing it\n"
    assert single.part.read_bytes() == b"x" * 100


async def test_a_store_that_stays_away_is_given_up_after_some_tries(single: Place) -> None:
    async def busy(_request: web.Request) -> web.Response:
        return error(503, "SlowDown")

    single.store.faults = [busy] * 100
    answer = await single.caller.get(f"/processes/{CASE}/files")
    (document,) = [one for one in answer.json["documents"] if one["status"] == "available"]
    wanted = Wanted(UUID(document["id"]), LARGEST, SIZE, document["sha256"], link=document["download_url"])
    async with open_api(single.world.base_url, single.caller.key) as api:
        with pytest.raises(CallError, match="the store answered 503"):
            await save(api, wanted, single.folder, on_size=lambda _: None, waits_s=(0, 0, 0))
    assert len(single.store.seen) == 3


async def _body(place: Place) -> bytes:
    """The bytes of the largest document."""
    answer = await place.caller.get(f"/processes/{CASE}/files")
    (link,) = [one["download_url"] for one in answer.json["documents"] if one["status"] == "available"]
    async with place.world.http.get(URL(link, encoded=True)) as response:
        body = await response.read()
    place.store.seen.clear()
    return body
