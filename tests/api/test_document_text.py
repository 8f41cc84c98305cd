"""`GET /documents/{id}/text`: the text that the court has made, from the portal at this moment."""

import asyncio

import pytest

from tests.world import Caller, World, until

CASE = "1003579-22.2025.8.26.0564"


async def _fetched(world: World) -> tuple[Caller, list[str]]:
    """Fetch the case; return who did, and the ids of its documents by position."""
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    final = await caller.wait_until_final(CASE)
    return caller, [one["id"] for one in sorted(final["documents"], key=lambda one: int(one["position"]))]


async def test_it_is_plain_text_and_404_where_the_court_has_none(world: World) -> None:
    caller, ids = await _fetched(world)
    answers = [await caller.get(f"/documents/{one}/text") for one in ids]
    there = [answer for answer in answers if answer.status == 200]
    assert there
    for answer in there:
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert "Texto inventado" in answer.text
    missing = [answer for answer in answers if answer.status != 200]
    assert missing
    for answer in missing:
        assert (answer.status, answer.json["type"].rpartition("/")[2]) == (404, "text-not-available")


async def test_another_clients_document_has_no_text(world: World) -> None:
    _, ids = await _fetched(world)
    stranger = await world.caller("other")
    answer = await stranger.get(f"/documents/{ids[0]}/text")
    assert (answer.status, answer.json["type"].rpartition("/")[2]) == (404, "not-found")


@pytest.mark.parametrize("status", [401, 429, 500, 502, 503])
async def test_a_portal_that_cannot_serve_now_is_503_with_a_time_to_come_again(
    world: World, status: int
) -> None:
    caller, ids = await _fetched(world)
    world.portal.outage = status
    answer = await caller.get(f"/documents/{ids[0]}/text")
    assert (answer.status, answer.json["type"].rpartition("/")[2]) == (503, "service-unavailable")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


async def test_who_asks_for_many_at_once_leaves_places_to_others(world: World) -> None:
    caller, ids = await _fetched(world)
    other = await world.caller("other")
    await other.get(f"/processes/{CASE}")
    path = f"/documents/{ids[0]}/text"
    world.portal.latency_s = 600
    asked = [asyncio.create_task(caller.get(path)) for _ in range(4)]
    await until(lambda: world.portal.in_flight == 4)
    answer = await caller.get(path)
    assert (answer.status, answer.json["type"].rpartition("/")[2]) == (429, "rate-limited")
    assert int(answer.headers["Retry-After"]) > 0
    asked.append(asyncio.create_task(other.get(path)))
    await until(lambda: world.portal.in_flight == 5)
    for one in asked:
        one.cancel()
    await asyncio.wait(asked)
