"""The manifest: what a job brought in, to save it and to check it by."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.file_names import saved_name
from service.sandbox.cases import Special, expected_documents, special_number
from tests.api.test_bad_input import assert_problem
from tests.world import World

CASE = "1003579-22.2025.8.26.0564"


async def test_it_lists_the_case_in_the_courts_order_with_what_each_file_is_checked_by(world: World) -> None:
    caller = await world.caller()
    job_id = (await caller.post("/jobs", json={"process_number": CASE})).json["job_id"]
    await caller.wait_until_final(CASE)
    answer = await caller.get(f"/jobs/{job_id}/manifest")
    manifest = answer.json
    entries = manifest["documents"]
    assert [one["position"] for one in entries] == sorted(one["position"] for one in entries)
    assert {one["uuid"]: one["sha256"] for one in entries} == {
        one.uuid: one.sha256 for one in expected_documents(CASE)
    }
    assert manifest["total_documents"] == len(entries) == 26
    assert manifest["total_bytes"] == sum(one["size"] for one in entries)
    assert len({one["file_name"] for one in entries}) == len(entries)
    assert "X-Amz" not in answer.text
    path = entries[0]["content_url"].removeprefix(world.settings.public_url)
    link = (await caller.get(path)).headers["Location"]
    async with world.http.get(link) as response:
        body = await response.read()
    assert (len(body), hashlib.sha256(body).hexdigest()) == (entries[0]["size"], entries[0]["sha256"])
    known = {"If-None-Match": answer.headers["ETag"]}
    assert (await caller.get(f"/jobs/{job_id}/manifest", headers=known)).status == 304


async def test_what_failed_has_a_reason_and_no_file(world: World) -> None:
    caller, number = await world.caller(), special_number(Special.CODEX_SOME)
    job_id = (await caller.post("/jobs", json={"process_number": number})).json["job_id"]
    await caller.wait_until_final(number)
    entries = (await caller.get(f"/jobs/{job_id}/manifest")).json["documents"]
    failed = [one for one in entries if one["status"] == "failed"]
    assert len(failed) == 3
    for one in failed:
        assert one["error_code"] == "codex_error"
        assert one["file_name"] is one["size"] is one["sha256"] is one["content_url"] is None


async def test_the_manifest_of_a_strangers_job_is_not_found(api: World) -> None:
    job_id = (await (await api.caller()).post("/jobs", json={"process_number": CASE})).json["job_id"]
    stranger = await api.caller("stranger")
    assert_problem(await stranger.get(f"/jobs/{job_id}/manifest"), 404, "not-found")


@pytest.mark.parametrize(
    ("name", "suffix", "saved"),
    [
        ("Despacho", "html", "0007 - Despacho.html"),
        ("Petição.pdf", "pdf", "0007 - Petição.pdf"),
        ("Doc.pdf", "rtf", "0007 - Doc.pdf.rtf"),
        ("../../etc/passwd", "html", "0007 - etc passwd.html"),
        ("a/b\\c:d*e?f", "pdf", "0007 - a b c d e f.pdf"),
        ("fdp.\u202etxet", "pdf", "0007 - fdp.txet.pdf"),
        (" . ", "pdf", "0007 - Documento.pdf"),
        ("CON", "", "0007 - CON"),
    ],
)
def test_a_file_can_be_saved_under_its_name_anywhere(name: str, suffix: str, saved: str) -> None:
    assert saved_name(7, name, suffix=suffix, count=26) == saved


@given(name=st.text(max_size=300), suffix=st.sampled_from(["pdf", "html", ""]))
def test_whatever_the_court_calls_it_the_name_is_one_plain_file_name(name: str, suffix: str) -> None:
    saved = saved_name(12, name, suffix=suffix, count=20_000)
    assert saved.startswith("00012 - ")
    assert len(saved.encode()) < 200
    assert not set(saved) & set('<>:"/\\|?*')
    assert saved.isprintable()
    assert saved == saved.strip(" .")
