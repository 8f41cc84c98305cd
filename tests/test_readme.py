"""What the documents promise is so."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from service import schemas
from service.app import create_app
from service.core.settings import Settings
from service.problems import CATALOGUE
from service.sandbox.cases import SPECIAL_CASES, special_number
from service.sandbox.plan import API_KEY
from service.sandbox.run import CASE
from tests.receiver import Receiver
from tests.world import World

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WEBHOOKS = (ROOT / "docs" / "webhooks.md").read_text()
PAGES = [*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def _examples(page: str) -> list[dict[str, Any]]:
    """The JSON objects of a page; a block may hold several, each on lines of its own."""
    blocks = re.findall(r"^```json\n(.+?)^```", page, re.MULTILINE | re.DOTALL)
    return [json.loads(one) for block in blocks for one in re.split(r"\n(?=\{)", block)]


def _error_codes() -> set[str]:
    """Every `error_code` in the code, but those of the classes that only group others."""
    sources = [*(ROOT / "service" / "core").glob("*.py"), *(ROOT / "worker").rglob("*.py")]
    text = "\n".join(source.read_text() for source in sources)
    given = re.findall(r"\bcode(?:: [\w\[\]]+)? ?= ?\"(\w+)\"|\bReason\(\"(\w+)\"|error_code = '(\w+)'", text)
    return {code for codes in given for code in codes if code} - {"portal_error", "portal_paused", "refused"}


def test_the_readme_lists_every_special_number_with_its_right_digits() -> None:
    listed = re.findall(r"^\| `(\d{7}-[\d.]+)` \| (.+) \|$", README, re.MULTILINE)
    assert dict(listed) == {
        special_number(first_part): case.description for first_part, case in SPECIAL_CASES.items()
    }


def test_the_readme_begins_with_the_case_and_the_key_of_the_sandbox() -> None:
    assert f"X-API-Key: {API_KEY}" in README
    assert f"http://127.0.0.1:{Settings().port}/processes/{CASE}" in README


def test_the_readme_names_every_route() -> None:
    for resource in create_app(Settings()).router.resources():
        # The API's are those that are under the prefix, too; the others are pages of the dashboard.
        path = resource.canonical.removeprefix("/api/v1")
        if path != resource.canonical and not path.startswith("/problems/"):
            assert f"{re.sub(r'{[a-z]+_id}', '{id}', path)}`" in README, path


@pytest.mark.parametrize(
    "model",
    [
        schemas.ProcessAnswer,
        schemas.StatusAnswer,
        schemas.FilesAnswer,
        schemas.BatchAnswer,
        schemas.ErasureAnswer,
        schemas.EndpointAnswer,
        schemas.SecretAnswer,
        schemas.DeliveryAnswer,
        schemas.RedeliveredAnswer,
        schemas.ValidateAnswer,
        schemas.ConnectivityAnswer,
        schemas.SendTestAnswer,
        schemas.EchoAnswer,
    ],
)
def test_the_readme_shows_each_answer_with_every_member(model: type[BaseModel]) -> None:
    (example,) = [one for one in _examples(README) if list(one) == list(model.model_fields)]
    model.model_validate(example)


def test_the_readme_shows_a_document_with_every_member() -> None:
    shown = [document for one in _examples(README) for document in one.get("documents", ())]
    assert [list(document) for document in shown] == [list(schemas.DocumentAnswer.model_fields)]


def test_the_readme_names_every_problem_and_every_error_code() -> None:
    for problem in CATALOGUE.values():
        assert f"{problem.status} `{problem.code}`" in README
    assert len(_error_codes()) > 15
    for code in _error_codes():
        assert f"`{code}`" in README, code


async def test_the_example_in_python_submits_waits_and_lists_every_document(world: World) -> None:
    caller = await world.caller()
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    program = program.replace("http://127.0.0.1:8000", world.base_url).replace(
        "autos_sandbox_key", caller.key
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert len(out.decode().splitlines()) == 26


async def test_the_example_on_the_command_line_saves_every_document(world: World, tmp_path: Path) -> None:
    caller = await world.caller()
    (script,) = re.findall(r"```sh\n(export AUTOS_KEY.*?)```", README, re.DOTALL)
    script = script.replace(".venv/bin/python", sys.executable).replace("autos_sandbox_key", caller.key)
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-e",
        "-c",
        script,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "AUTOS_URL": world.base_url},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert f"{CASE}  completed  26/26 documents" in out.decode()
    assert "case: 26 fetched, 0 were there already, 0 missing" in out.decode()
    assert "0919992-11.2023.8.19.0001  completed" in out.decode()


async def test_the_guide_shows_a_webhook_with_every_member(world: World, receiver: Receiver) -> None:
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url})
    (got,) = await receiver.wait_for(1)
    (example,) = [one for one in _examples(WEBHOOKS) if one.get("type", "").startswith("job.")]
    assert list(example) == list(got.event)
    assert list(example["documents"][0]) == list(got.event["documents"][0])
    await caller.post("/jobs/batch", json={"process_numbers": [CASE], "batch_webhook_url": receiver.url})
    got = (await receiver.wait_for(2))[1]
    (example,) = [one for one in _examples(WEBHOOKS) if one.get("type") == "batch.finished"]
    assert list(example) == list(got.event)


def test_every_link_between_the_documents_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_setting_that_a_document_names_exists() -> None:
    sources = (".env.example", "service/sandbox/plan.py", "service/cli/run.py")
    known = "".join((ROOT / source).read_text() for source in sources)
    for page in PAGES:
        for name in re.findall(r"\bAUTOS_[A-Z0-9_]+", page.read_text()):
            assert re.search(rf"\b{name}\b", known), f"{page.name}: {name}"
