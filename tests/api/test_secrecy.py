"""What is too secret for a client reaches it by no way, from the moment that this is so."""

import io
import zipfile
from typing import Any

from service.core import clients
from tests.conftest import MakeSettings
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
