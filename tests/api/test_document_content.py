"""`GET /documents/{id}/content` when the object is not where its row says."""

from collections.abc import AsyncIterator

import pytest
from yarl import URL

from service.core.storage import Storage, open_storage
from tests.world import Caller, World, open_world

CASE = "1003579-22.2025.8.26.0564"


@pytest.fixture
async def storage(world: World) -> AsyncIterator[Storage]:
    async with open_storage(world.settings) as opened:
        yield opened


async def _fetched(world: World) -> tuple[Caller, str, str]:
    """Fetch the case; return who did, a document's id and its object's key."""
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    await caller.wait_until_final(CASE)
    async with world.db.connection() as conn:
        row = await conn.fetchrow("select id, object_key from documents order by position limit 1")
    assert row
    return caller, str(row["id"]), row["object_key"]


async def test_a_vanished_object_is_gone_and_fetched_again_by_the_next_job(
    world: World, storage: Storage
) -> None:
    caller, document_id, key = await _fetched(world)
    await storage.delete(key)
    answer = await caller.get(f"/documents/{document_id}/content")
    assert (answer.status, answer.json["type"].rpartition("/")[2]) == (410, "document-gone")
    assert (await caller.get(f"/documents/{document_id}/content")).status == 409
    await caller.get(f"/processes/{CASE}")
    await caller.wait_until_final(CASE)
    answer = await caller.get(f"/documents/{document_id}/content")
    async with world.http.get(answer.headers["Location"]) as response:
        assert response.status == 200


@pytest.mark.parametrize("change", [{"bucket": "autos-nowhere"}, {"s3_endpoint_url": "http://127.0.0.1:9"}])
async def test_an_s3_that_is_away_or_misnamed_loses_no_document(world: World, change: dict[str, str]) -> None:
    """The link may still work for the caller; that it does not work for us proves nothing."""
    caller, document_id, _ = await _fetched(world)
    astray = world.settings.model_copy(update=change)
    async with open_world(astray, with_worker=False) as other:
        answer = await Caller(other.base_url, other.http, caller.key, caller.client).get(
            f"/documents/{document_id}/content"
        )
    assert answer.status == 302
    async with world.db.connection() as conn:
        assert await conn.fetchval("select count(*) from documents where status = 'available'") == 26


async def test_a_link_gives_a_part_of_the_document_when_asked_for_a_range(world: World) -> None:
    caller, document_id, _ = await _fetched(world)
    link = (await caller.get(f"/documents/{document_id}/content")).headers["Location"]
    async with world.http.get(URL(link, encoded=True)) as response:
        whole = await response.read()
    async with world.http.get(URL(link, encoded=True), headers={"Range": "bytes=5-14"}) as response:
        # rclone sends the right part and says so, but as 200 where S3 has 206.
        assert response.status in (200, 206)
        assert await response.read() == whole[5:15]
        assert response.headers["Content-Range"] == f"bytes 5-14/{len(whole)}"
