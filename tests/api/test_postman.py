"""The collection for Postman and its like: as the API is now, whole, and understood by it."""

import json
import re
from typing import Any
from uuid import uuid4

from service.app import create_app
from service.core.settings import Settings
from service.keys import OPENAPI
from tests import postman
from tests.receiver import Receiver
from tests.world import World

COLLECTION: dict[str, Any] = json.loads(postman.FILE.read_text())
ITEMS: list[dict[str, Any]] = [one for folder in COLLECTION["item"] for one in folder["item"]]
VARIABLES: dict[str, str] = {one["key"]: one["value"] for one in COLLECTION["variable"]}


def test_it_is_what_the_description_makes_of_it() -> None:
    assert postman.FILE.read_text() == postman.text(), "make collection"


def test_it_has_every_operation_and_a_variable_for_all_that_is_to_be_filled_in() -> None:
    paths = create_app(Settings())[OPENAPI]["paths"]
    operations = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    assert sorted(one["name"] for one in ITEMS) == sorted(operations)
    assert set(re.findall(r"{{(\w+)}}", json.dumps(COLLECTION))) == VARIABLES.keys()
    assert VARIABLES["api_key"] == ""


async def test_the_api_understands_each_of_its_requests(api: World, receiver: Receiver) -> None:
    caller = await api.caller(scopes=("read", "write", "erase"))
    given = {"base_url": api.base_url, "api_key": caller.key, "webhook_url": receiver.url}
    known = {name: given.get(name) or value or str(uuid4()) for name, value in VARIABLES.items()}

    def filled(text: str) -> str:
        return re.sub(r"{{(\w+)}}", lambda found: known[found[1]], text)

    assert filled(COLLECTION["auth"]["bearer"][0]["value"]) == caller.key
    for item in ITEMS:
        asked = item["request"]
        parts = {f":{one['key']}": filled(one["value"]) for one in asked["url"]["variable"]}
        url = "/".join(parts.get(step, filled(step)) for step in asked["url"]["raw"].split("/"))
        headers = {one["key"]: one["value"] for one in asked["header"] if not one.get("disabled")}
        if asked.get("auth", {"type": "bearer"})["type"] == "bearer":
            headers["Authorization"] = f"Bearer {caller.key}"
        body = filled(asked["body"]["raw"]) if "body" in asked else None
        async with api.http.request(
            asked["method"], url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            # An id that nobody has is not found; what is wrong with a request itself is said otherwise.
            assert answer.status in (200, 201, 202, 302, 404), (item["name"], answer.status)
            assert answer.status != 404 or parts, item["name"]
