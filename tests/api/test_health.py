"""Health: what is asked without a key, and what decides."""

import pytest

from tests.conftest import MakeSettings
from tests.world import World, open_world

pytestmark = pytest.mark.integration


async def test_the_loop_lives_and_everything_answers(api: World) -> None:
    for path in ("/healthz", "/api/v1/healthz"):
        async with api.http.get(api.base_url + path) as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
    async with api.http.get(f"{api.base_url}/readyz") as response:
        assert response.status == 200
        assert await response.json() == {
            "status": "ready",
            "checks": {"database": "ok", "redis": "ok", "storage": "ok"},
        }


async def test_without_redis_and_s3_it_is_degraded_and_goes_on_serving(
    empty: None, make_settings: MakeSettings
) -> None:
    settings = make_settings(redis_url="redis://127.0.0.1:1/0", s3_endpoint_url="http://127.0.0.1:1")
    async with (
        open_world(settings, with_worker=False) as api,
        api.http.get(f"{api.base_url}/readyz") as response,
    ):
        assert response.status == 200
        body = await response.json()
    assert body["status"] == "degraded"
    assert body["checks"]["database"] == "ok"
    assert body["checks"]["redis"].startswith("unavailable")
    assert body["checks"]["storage"].startswith("unavailable")


async def test_every_answer_carries_the_safe_headers(api: World) -> None:
    for path in ("/healthz", "/nothing", "/problems/not-found"):
        async with api.http.get(api.base_url + path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
