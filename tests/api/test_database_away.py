"""PostgreSQL goes away: a clear 503 that says when to come back, and no restart when it is there again."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from service.core.db import open_database
from service.core.errors import DatabaseUnavailableError, SchemaError
from service.core.schema import upgrade
from service.sandbox.postgres import open_postgres
from tests.api.test_bad_input import assert_problem
from tests.conftest import MakeSettings
from tests.world import open_world

CASE = "1003579-22.2025.8.26.0564"
pytestmark = pytest.mark.integration


async def test_without_its_database_the_api_says_503_and_when_to_come_back(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    async with AsyncExitStack() as postgres, AsyncExitStack() as rest:
        url = await postgres.enter_async_context(open_postgres(tmp_path))
        await upgrade(url)
        settings = make_settings(database_url=url)
        api = await rest.enter_async_context(open_world(settings, with_worker=False))
        caller = await api.caller()
        assert (await caller.get(f"/processes/{CASE}")).status == 200
        await postgres.aclose()
        for answer in (
            await caller.get(f"/processes/{CASE}"),
            await caller.get(f"/processes/{CASE}/status"),
            await caller.post("/jobs", json={"process_number": CASE}),
        ):
            assert_problem(answer, 503, "service-unavailable")
            assert int(answer.headers["Retry-After"]) > 0
        ready = await caller.get("/readyz")
        assert (ready.status, ready.json["status"]) == (503, "unavailable")
        assert (await caller.get("/healthz")).status == 200


async def test_a_database_without_our_schema_is_refused_at_the_start(
    make_settings: MakeSettings, postgres_url: str
) -> None:
    with pytest.raises(SchemaError, match="db upgrade"):
        async with open_database(make_settings(database_url=postgres_url)):
            pytest.fail("it was opened")


async def test_a_database_that_is_not_there_is_refused_at_the_start(make_settings: MakeSettings) -> None:
    away = make_settings(database_url="postgresql://autos:hidden@127.0.0.1:1/autos")
    with pytest.raises(DatabaseUnavailableError) as refused:
        async with open_database(away):
            pytest.fail("it was opened")
    assert "hidden" not in str(refused.value)
