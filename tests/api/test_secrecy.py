"""What is too secret for a client reaches it by no way, from the moment that this is so."""

import io
import zipfile
from typing import Any

from service.core import clients
from service.core.cnj import parse_process_number
from tests.conftest import MakeSettings
from tests.dashboard.reader import signed_in
from tests.receiver import Receiver
from tests.world import Caller, World, open_world

CASE = "1003579-22.2025.8.26.0564"


async def _fetched(world: World) -> tuple[Caller, str]:
    """Fetch the case; return who did, and the id of a document that has become secret since."""
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    await caller.wait_until_final(CASE)
    async with world.db.connection() as conn:
        document_id = await conn.fetchval(
            """update documents set secrecy_level = 1
               where id = (select id from documents order by position limit 1) returning id::text"""
        )
    return caller, document_id


def _withheld(documents: list[dict[str, Any]]) -> list[str]:
    return [one["id"] for one in documents if one["content_url"] is None and not one.get("download_url")]


async def test_no_answer_leads_to_what_is_too_secret(world: World, receiver: Receiver) -> None:
    caller, secret = await _fetched(world)
    status = (await caller.get(f"/processes/{CASE}/status")).json
    paths = ("/status", "/files", "")
    answers = [await caller.get(f"/processes/{CASE}{path}", params={}) for path in paths]
    answers.append(await caller.get(f"/jobs/{status['job_id']}/manifest"))
    for answer in answers:
        assert _withheld(answer.json["documents"]) == [secret]
    for what in ("content", "text"):
        refused = await caller.get(f"/documents/{secret}/{what}")
        assert (refused.status, refused.json["type"].rpartition("/")[2]) == (403, "document-too-secret")
    async with world.http.get(
        f"{world.base_url}/processes/{CASE}/documents.zip", headers={"X-API-Key": caller.key}
    ) as response:
        archive = zipfile.ZipFile(io.BytesIO(await response.read()))
    assert len(archive.namelist()) == 25
    await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url})
    (got,) = await receiver.wait_for(1)
    assert _withheld(got.event["documents"]) == [secret]


async def test_a_clients_own_ceiling_keeps_from_it_alone_what_the_system_may_fetch(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_world(make_settings(max_secrecy=2)) as world:
        caller, secret = await _fetched(world)
        other = await world.caller("other")
        await other.get(f"/processes/{CASE}")
        async with world.db.connection() as conn:
            await clients.set_max_secrecy(conn, "other", 0)
        assert (await caller.get(f"/documents/{secret}/content")).status == 302
        assert (await other.get(f"/documents/{secret}/content")).status == 403
        assert _withheld((await caller.get(f"/processes/{CASE}/files")).json["documents"]) == []
        assert _withheld((await other.get(f"/processes/{CASE}/files")).json["documents"]) == [secret]
        async with world.db.connection() as conn:
            await clients.set_max_secrecy(conn, "other", 5)
        assert (await other.get(f"/documents/{secret}/content")).status == 302


async def test_a_ceiling_above_that_of_the_system_lifts_nothing(world: World) -> None:
    caller, secret = await _fetched(world)
    async with world.db.connection() as conn:
        await clients.set_max_secrecy(conn, "acme", 5)
    assert (await caller.get(f"/documents/{secret}/content")).status == 403


async def _listed_anew(caller: Caller) -> dict[str, Any]:
    """Have the portal asked again; return how the job ended."""
    await caller.post("/jobs", json={"process_number": CASE, "max_age_s": 0})
    return await caller.wait_until_final(CASE)


def _told_of(documents: list[dict[str, Any]]) -> set[Any]:
    """What answers, manifests and events tell of documents beside their state."""
    told = ("name", "type", "size", "mime_type", "sha256", "filed_at", "file_name")
    return {one.get(name) for one in documents for name in told} - {None, ""}


async def test_of_a_process_that_rose_above_a_clients_ceiling_it_sees_state_and_counts_alone(
    empty: None, make_settings: MakeSettings, receiver: Receiver
) -> None:
    async with open_world(make_settings(max_secrecy=2)) as world:
        caller, other = await world.caller(), await world.caller("other")
        async with world.db.connection() as conn:
            await clients.set_max_secrecy(conn, "other", 1)
        await other.post("/jobs", json={"process_number": CASE, "webhook_url": receiver.url})
        first = await other.wait_until_final(CASE)
        (before,) = await receiver.wait_for(1)
        assert _told_of(before.event["documents"])
        await caller.get(f"/processes/{CASE}")
        world.portal.levels[parse_process_number(CASE)] = 2
        status = await _listed_anew(caller)
        assert (status["status"], len(_withheld(status["documents"]))) == ("completed", 0)
        assert (await caller.get(f"/processes/{CASE}?auto_download=false")).json["subject"]
        # The objects stay, since they are another's: nothing that leads to them is given any more.
        status = (await other.get(f"/processes/{CASE}/status")).json
        assert (status["status"], status["completed_documents"]) == ("completed", 26)
        paths = [f"/processes/{CASE}/status", f"/processes/{CASE}/files", f"/jobs/{first['job_id']}/manifest"]
        answers = [
            (await other.get(path)).json for path in (*paths, f"/processes/{CASE}?auto_download=false")
        ]
        for shown in answers:
            assert (len(_withheld(shown["documents"])), _told_of(shown["documents"])) == (26, set())
        shown = answers[-1]
        assert (shown["court"], shown["subject"], shown["case_class"]) == ("TJSP", None, None)
        assert (await other.get(f"/processes/{CASE}/documents.zip")).status == 409
        document_id = before.event["documents"][0]["id"]
        assert (await other.get(f"/documents/{document_id}/text")).status == 403
        # What was told once is told again without what may not be told any more, in the log of it too.
        (delivery,) = (await other.get("/webhooks/deliveries")).json["items"]
        again = await other.post(f"/webhooks/deliveries/{delivery['id']}/redeliver")
        assert _told_of(again.json["payload"]["documents"]) == set()
        event = (await receiver.wait_for(2))[1].event
        assert (len(_withheld(event["documents"])), _told_of(event["documents"])) == (26, set())
        async with signed_in(world, other.key) as reader:
            page = await reader.get(f"/dashboard/jobs/{first['job_id']}")
            assert page.text.count("too secret for you") == 26
            for text in (before.event["documents"][0]["name"], "Procedimento", "/dashboard/documents/"):
                assert text not in page.text
            page = await reader.get(f"/dashboard/deliveries/{delivery['id']}")
            assert before.event["documents"][0]["sha256"] not in page.text


async def test_a_level_that_is_raised_in_the_row_of_the_process_is_heeded_at_once(world: World) -> None:
    caller, _ = await _fetched(world)
    ids = [one["id"] for one in (await caller.get(f"/processes/{CASE}/files")).json["documents"]]
    async with world.db.connection() as conn:
        await conn.execute("update documents set secrecy_level = 0")
        assert (await caller.get(f"/documents/{ids[0]}/content")).status == 302
        await conn.execute("update processes set secrecy_level = 1")
    assert (await caller.get(f"/documents/{ids[0]}/content")).status == 403
    assert _withheld((await caller.get(f"/processes/{CASE}/files")).json["documents"]) == ids
