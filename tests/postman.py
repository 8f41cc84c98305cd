"""The API as a collection that Postman and its like open: `python -m tests.postman`, or `make collection`.

Made from the OpenAPI description alone, in the form of https://schema.postman.com/collection/json/v2.1.0.
"""

import json
import sys
from pathlib import Path
from typing import Any

from service.app import create_app
from service.core.settings import Settings
from service.keys import OPENAPI

Json = dict[str, Any]

FILE = Path(__file__).parents[1] / "docs" / "autos.postman_collection.json"

_SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
_BASE_URL = "http://127.0.0.1:8000"
_WEBHOOK_URL = "https://hooks.example.com/autos"
_HINT = "Set the variables of the collection: base_url, api_key, and the ids that the calls answer with."


def collection(description: Json) -> Json:
    """Return the collection: a folder for each tag, in it each operation as `METHOD /path`."""
    variables = {"base_url": _BASE_URL, "api_key": "", "webhook_url": _WEBHOOK_URL}
    folders: dict[str, list[Json]] = {tag["name"]: [] for tag in description["tags"]}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            for one in _parameters(operation, "path"):
                variables.setdefault(one["name"], _value(one["schema"]))
            folders[operation["tags"][0]].append(_item(description, method.upper(), path, operation))
    return {
        "info": {
            "name": description["info"]["title"],
            "description": f"{description['info']['description']} {_HINT}",
            "schema": _SCHEMA,
        },
        "auth": {
            "type": "bearer",
            "bearer": [{"key": "token", "value": "{{api_key}}", "type": "string"}],
        },
        "variable": [{"key": name, "value": value} for name, value in variables.items()],
        "item": [
            {"name": tag["name"], "description": tag["description"], "item": folders[tag["name"]]}
            for tag in description["tags"]
        ],
    }


def _item(description: Json, method: str, path: str, operation: Json) -> Json:
    said = [f"{operation['summary']}.", operation.get("description", "")]
    request: Json = {
        "method": method,
        "url": _url(path, operation),
        "header": [
            {"key": one["name"], "value": "", "description": one["description"], "disabled": True}
            for one in _parameters(operation, "header")
        ],
        "description": " ".join(filter(None, said)),
    }
    if operation.get("security") == []:
        request["auth"] = {"type": "noauth"}
    if body := operation.get("requestBody"):
        request["header"].insert(0, {"key": "Content-Type", "value": "application/json"})
        request["body"] = {
            "mode": "raw",
            "raw": _example(description, body["content"]["application/json"]["schema"]),
            "options": {"raw": {"language": "json"}},
        }
    return {"name": f"{method} {path}", "request": request, "response": []}


def _url(path: str, operation: Json) -> Json:
    """Return the URL in its parts: `:name` for what is left open; what is optional in a query is off."""
    steps = [f":{step[1:-1]}" if step.startswith("{") else step for step in path.split("/")[1:]]
    return {
        "raw": "/".join(["{{base_url}}", *steps]),
        "host": ["{{base_url}}"],
        "path": steps,
        "query": [
            {
                "key": one["name"],
                "value": _value(one["schema"]),
                "description": one["description"],
                "disabled": not one["required"],
            }
            for one in _parameters(operation, "query")
        ],
        "variable": [
            {"key": one["name"], "value": f"{{{{{one['name']}}}}}", "description": one["description"]}
            for one in _parameters(operation, "path")
        ],
    }


def _parameters(operation: Json, place: str) -> list[Json]:
    return [one for one in operation["parameters"] if one["in"] == place]


def _value(schema: Json) -> str:
    """Return what can stand for a parameter, as a URL writes it; empty when nothing is known that could."""
    found = schema.get("default", next(iter([*schema.get("examples", ()), *schema.get("enum", ())]), ""))
    return found if isinstance(found, str) else json.dumps(found)


def _example(description: Json, schema: Json) -> str:
    """Return the shortest body that is shown, with the variables that there are for it."""
    model = description["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
    text = json.dumps(model.get("examples", [{}])[0], indent=2, ensure_ascii=False)
    number = description["components"]["schemas"]["JobRequest"]["examples"][0]["process_number"]
    return text.replace(f'"{_WEBHOOK_URL}"', '"{{webhook_url}}"').replace(f'"{number}"', '"{{number}}"')


def text() -> str:
    """Return the file as it should be."""
    description: Json = create_app(Settings(public_url=_BASE_URL))[OPENAPI]
    return json.dumps(collection(description), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file."""
    FILE.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
