"""`/metrics`: who may see it, and what it tells of requests."""

import asyncio
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.conftest import MakeSettings
from tests.readings import Readings
from tests.world import World, open_world, until

CASE = "1003579-22.2025.8.26.0564"
COUNT = "autos_http_requests_total"
TIMED = "autos_http_request_duration_seconds_count"


async def _metrics(world: World, **headers: str) -> tuple[int, str, str]:
    async with world.http.get(f"{world.base_url}/metrics", headers=headers) as response:
        return response.status, response.headers["Content-Type"], await response.text()


async def test_they_are_shown_without_a_key_in_both_forms(api: World) -> None:
    await (await api.caller()).get("/jobs")
    status, content_type, text = await _metrics(api)
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    names = {sample.name for family in read_text(text) for sample in family.samples}
    assert {
        "autos_http_requests_total",
        "autos_database_wait_seconds_bucket",
        "autos_jobs_ended_total",
    } <= names
    status, content_type, text = await _metrics(api, Accept="application/openmetrics-text;version=1.0.0")
    assert (status, content_type) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    families = read_openmetrics(text)  # type: ignore[no-untyped-call]  # the library has no type for it
    assert names <= {sample.name for family in families for sample in family.samples}


async def test_a_token_of_their_own_keeps_others_out(empty: None, make_settings: MakeSettings) -> None:
    async with open_world(make_settings(metrics_token="scr4pe"), with_worker=False) as world:
        caller = await world.caller()
        for headers in ({}, {"Authorization": "Bearer scrape"}, {"Authorization": f"Bearer {caller.key}"}):
            async with world.http.get(f"{world.base_url}/metrics", headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                assert "autos_" not in await response.text()
        assert (await _metrics(world, Authorization="Bearer scr4pe"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("GET", "/jobs", {"method": "GET", "route": "/jobs", "status": "2xx"}),
        ("GET", "/api/v1/jobs", {"method": "GET", "route": "/jobs", "status": "2xx"}),
        (
            "GET",
            "/jobs/7d288507-0fd8-42ac-98c1-666a1bde337d",
            {"method": "GET", "route": "/jobs/{job_id}", "status": "4xx"},
        ),
        (
            "GET",
            f"/processes/{CASE}/status",
            {"method": "GET", "route": "/processes/{number}/status", "status": "4xx"},
        ),
        ("GET", "/some/where/else", {"method": "GET", "route": "none", "status": "4xx"}),
        ("DELETE", "/jobs", {"method": "DELETE", "route": "none", "status": "4xx"}),
        ("PURGE", "/jobs", {"method": "other", "route": "none", "status": "4xx"}),
    ],
)
async def test_a_request_counts_under_its_route(
    api: World, method: str, path: str, labels: dict[str, str]
) -> None:
    caller = await api.caller()
    before = Readings()
    await caller.call(method, path)
    assert before.moved(COUNT, **labels) == 1
    assert before.moved(TIMED, method=labels["method"], route=labels["route"]) == 1


async def test_a_refused_and_a_failed_request_count_by_the_status_that_is_sent(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_world(make_settings(max_requests=1), with_worker=False) as world:
        caller = await world.caller()
        before = Readings()
        async with aiohttp.ClientSession() as http, http.get(f"{world.base_url}/jobs") as response:
            assert response.status == 401
        world.load.under_way = 1
        assert (await caller.get("/jobs")).status == 503
    assert before.moved(COUNT, method="GET", route="/jobs", status="4xx") == 1
    assert before.moved(COUNT, method="GET", route="/jobs", status="5xx") == 1


async def test_the_wait_that_a_caller_asks_for_is_no_slowness(api: World) -> None:
    caller = await api.caller()
    job_id = (await caller.post("/jobs", json={"process_number": CASE})).json["job_id"]
    before, clock = Readings(), asyncio.get_running_loop().time
    since = clock()
    assert (await caller.get(f"/jobs/{job_id}?wait=1")).status == 200
    took_s = clock() - since
    labels = {"method": "GET", "route": "/jobs/{job_id}"}
    assert before.moved(TIMED, **labels) == 1
    assert before.moved("autos_http_request_duration_seconds_sum", **labels) <= took_s - 0.99


async def test_a_stream_is_counted_and_not_timed(api: World) -> None:
    caller = await api.caller()
    job_id = (await caller.post("/jobs", json={"process_number": CASE})).json["job_id"]
    before = Readings()
    labels: dict[str, Any] = {"method": "GET", "route": "/jobs/{job_id}/events"}
    headers = {"Authorization": f"Bearer {caller.key}"}
    async with api.http.get(f"{api.base_url}/jobs/{job_id}/events", headers=headers) as response:
        await response.content.readline()
        api.drain()
        await response.content.read()
    await until(lambda: before.moved(COUNT, status="2xx", **labels) == 1)
    assert before.moved(TIMED, **labels) == 0
