"""The OpenAPI description: whole, true, and fit for the tools that read one.

Every answer and every request of this suite is held against it too (tests/contract.py).
"""

import asyncio
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from openapi_spec_validator import validate

from service.app import create_app
from service.core import clients
from service.core.settings import Settings
from service.keys import OPENAPI
from service.problems import CATALOGUE
from service.sandbox.cases import Special, special_number
from service.webhook_schemas import EVENTS
from tests.conftest import MakeSettings
from tests.contract import Contract
from tests.receiver import Receiver
from tests.world import World, open_world

CASE = "1003579-22.2025.8.26.0564"
TRIALS = Path(__file__).resolve().parents[1] / "schemathesis.toml"


@pytest.fixture(scope="module")
def app() -> web.Application:
    """The application, never started."""
    return create_app(Settings())


async def _run_module(*command: str, cwd: Path) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


def test_it_is_openapi(app: web.Application) -> None:
    described: dict[str, Any] = orjson.loads(orjson.dumps(app[OPENAPI]))
    assert described["openapi"].startswith("3.1.")
    validate(described)


def test_every_route_is_in_it_and_nothing_else(app: web.Application) -> None:
    routes = {
        (route.method.lower(), route.resource.canonical.removeprefix("/api/v1"))
        for route in app.router.routes()
        # The others are pages of the dashboard.
        if route.resource and route.resource.canonical.startswith("/api/v1") and route.method != "HEAD"
    }
    described = {(method, path) for path, methods in app[OPENAPI]["paths"].items() for method in methods}
    assert described == routes
    assert len(described) > 20


def test_every_type_of_problem_and_of_event_is_in_it(app: web.Application) -> None:
    text = orjson.dumps(app[OPENAPI]["paths"]).decode()
    # Another method than those described is, by its nature, in no description; forms are the dashboard's.
    for code in CATALOGUE.keys() - {"method-not-allowed", "foreign-form"}:
        assert f"/problems/{code}" in text, code
    assert app[OPENAPI]["webhooks"].keys() == EVENTS.keys()


def test_operations_and_parameters_say_what_they_are(app: web.Application) -> None:
    ids = []
    for methods in app[OPENAPI]["paths"].values():
        for operation in methods.values():
            ids.append(operation["operationId"])
            assert operation["summary"]
            for parameter in operation["parameters"]:
                assert parameter["description"], (operation["operationId"], parameter["name"])
    assert len(ids) == len(set(ids))


def test_every_body_and_every_event_has_an_example_that_is_as_described(app: web.Application) -> None:
    described: dict[str, Any] = orjson.loads(orjson.dumps(app[OPENAPI]))
    contract = Contract("", described)
    sent = [one["post"] for one in described["webhooks"].values()]
    asked = [one for methods in described["paths"].values() for one in methods.values()]
    bodies = [
        one["requestBody"]["content"]["application/json"] for one in [*sent, *asked] if "requestBody" in one
    ]
    models = {one["schema"]["$ref"].rpartition("/")[2] for one in bodies if "$ref" in one["schema"]}
    assert len(models) >= 7
    for model in models:
        for example in described["components"]["schemas"][model]["examples"]:
            contract.validate(model, example)


async def test_it_is_served_without_a_key_and_as_a_page_that_needs_nothing_else(api: World) -> None:
    async with api.http.get(f"{api.base_url}/openapi.json") as response:
        assert response.status == 200
        described = await response.json()
    async with api.http.get(f"{api.base_url}/api/v1/docs") as response:
        assert (response.status, response.content_type) == (200, "text/html")
        page = await response.text()
    assert not re.search(r"<script|(?:src|href)=\"?(?:https?:)?//|url\(|@import", page)
    for path, methods in described["paths"].items():
        assert f"</b>{path}</h3>" in page
        for operation in methods.values():
            assert f'id="{operation["operationId"]}"' in page
    targets = set(re.findall(r'href="#(\w+)"', page))
    assert targets <= set(re.findall(r'id="(\w+)"', page))


async def test_events_are_as_described(world: World, receiver: Receiver) -> None:
    caller = await world.caller()
    for number in (CASE, special_number(Special.CODEX_SOME)):
        await caller.post("/jobs", json={"process_number": number, "webhook_url": receiver.url})
    await caller.post("/jobs/batch", json={"process_numbers": [CASE], "batch_webhook_url": receiver.url})
    await caller.post("/webhooks/webhook-send-test", json={"webhook_url": receiver.url})
    kinds = {got.event["type"] for got in await receiver.wait_for(4)}
    assert kinds == {"job.completed", "job.partial", "batch.finished", "webhook.test"}


async def test_no_request_made_from_it_is_answered_in_another_way_than_it_says(
    empty: None, make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings(requests_per_minute=1_000_000)
    async with open_world(settings) as world:
        caller = await world.caller(scopes=(*clients.SCOPES, clients.ERASE))
        async with world.http.get(f"{world.base_url}/openapi.json") as response:
            paths = (await response.json())["paths"]
        operations = [one for methods in paths.values() for one in methods]
        status, out = await _run_module(
            *("schemathesis.cli", "--config-file", str(TRIALS), "run"),
            *(f"{world.base_url}/openapi.json", "--header", f"Authorization: Bearer {caller.key}"),
            *("--phases", "examples,coverage,fuzzing", "--max-time", "30", "--continue-on-failure"),
            "--no-color",
            cwd=tmp_path,
        )
    assert status == 0, out
    # All but the three that the file of the trials leaves out, with its reasons, and the description itself.
    tested = re.search(r"Tested: (\d+)", out)
    assert tested, out
    assert int(tested[1]) == len(operations) - 4


async def test_a_client_generated_from_it_goes_all_the_way(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = await world.caller()
    (tmp_path / "config.yml").write_text(
        "post_hooks: []\ncontent_type_overrides:\n  application/zip: application/octet-stream\n"
    )
    status, out = await _run_module(
        *("openapi_python_client", "generate", "--meta", "none"),
        *(
            "--url",
            f"{world.base_url}/openapi.json",
            "--config",
            "config.yml",
            "--output-path",
            "autos_client",
        ),
        cwd=tmp_path,
    )
    assert status == 0, out
    monkeypatch.syspath_prepend(tmp_path)
    models = generated("models")
    async with generated("client").AuthenticatedClient(base_url=world.base_url, token=caller.key) as client:
        body = models.JobRequest(process_number=CASE, reference="mine")
        job = await generated("api.jobs.create_job").asyncio(client=client, body=body)
        assert (job.process_number, job.reference) == (CASE, "mine")
        while job.status not in ("completed", "partial", "failed", "cancelled"):
            job = await generated("api.jobs.get_job").asyncio(job.job_id, client=client, wait=30)
        assert (job.status, len(job.documents)) == ("completed", 26)

        manifest = await generated("api.jobs.get_manifest").asyncio(job.job_id, client=client)
        assert manifest.total_documents == 26
        content = generated("api.documents.get_content")
        answer = await content.asyncio_detailed(manifest.documents[0].id, client=client)
        async with world.http.get(answer.headers["Location"]) as response:
            assert len(await response.read()) == manifest.documents[0].size

        refused = models.JobRequest(process_number="1003579-23.2025.8.26.0564")
        problem = await generated("api.jobs.create_job").asyncio(client=client, body=refused)
        assert problem.type_.endswith("/problems/invalid-process-number")


def generated(name: str) -> Any:
    """Return a module of the generated client."""
    return importlib.import_module(f"autos_client.{name}")
