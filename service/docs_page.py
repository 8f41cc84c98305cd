"""The OpenAPI description as one page to read: no script, nothing from elsewhere."""

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

Json = dict[str, Any]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Autos: the API</title>
<style>
:root {{ color-scheme: light dark; --line: light-dark(#d8dce3, #363b45); --soft: light-dark(#f5f6f8, #1d2027);
  --dim: light-dark(#57606f, #a3acba); --link: light-dark(#0b57b0, #8ab8f5) }}
* {{ box-sizing: border-box }}
body {{ margin: 0; font: 1rem/1.55 system-ui, sans-serif; display: grid;
  grid-template-columns: 17rem minmax(0, 1fr) }}
nav {{ position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1.5rem 1rem;
  border-right: 1px solid var(--line); font-size: .875rem }}
nav ul {{ list-style: none; margin: .25rem 0 1rem; padding: 0 }}
nav a {{ display: block; padding: .15rem .5rem; text-decoration: none; overflow-wrap: anywhere }}
main {{ padding: 1.5rem 2rem 5rem; max-width: 60rem }}
a {{ color: var(--link) }}
h2 {{ margin-top: 3rem; border-bottom: 1px solid var(--line); text-transform: capitalize }}
section {{ margin: 2.5rem 0 }}
h3 {{ font: 600 1rem/1.5 ui-monospace, monospace; background: var(--soft); padding: .5rem .75rem;
  border-radius: .4rem; overflow-wrap: anywhere }}
h3 b {{ color: var(--link); margin-right: .75rem }}
h4 {{ margin: 1rem 0 .25rem; font-size: .8rem; text-transform: uppercase; letter-spacing: .05em;
  color: var(--dim) }}
code {{ font: .9em ui-monospace, monospace; overflow-wrap: anywhere }}
.table, pre {{ overflow-x: auto }}
pre {{ font: .85rem/1.45 ui-monospace, monospace; background: var(--soft);
  padding: .75rem; border-radius: .4rem }}
table {{ border-collapse: collapse; width: 100%; font-size: .925rem }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem 1rem .35rem 0;
  border-bottom: 1px solid var(--line); font-weight: inherit }}
th {{ white-space: nowrap }}
td:nth-child(2) {{ color: var(--dim) }}
@media (max-width: 50rem) {{ body {{ display: block }} nav {{ position: static; height: auto; border: 0 }}
  main {{ padding: 0 1rem 3rem }} th {{ white-space: normal }} }}
</style></head>
<body><nav aria-label="Contents">{contents}</nav>
<main><h1>Autos: the API</h1>
<p>{description}</p>
<p>Every call brings a key: <code>Authorization: Bearer &lt;key&gt;</code> or
<code>X-API-Key: &lt;key&gt;</code>; those marked <em>no key</em> need none. Each path is served under
<code>/api/v1</code> too.
For programs: <a href="openapi.json">openapi.json</a> (OpenAPI {openapi}, version {version}).</p>
{body}
</main></body></html>
"""


def render(description: Json) -> str:
    """Return the page of an OpenAPI description."""
    operations = [
        (method, path, one)
        for path, methods in description["paths"].items()
        for method, one in methods.items()
    ]
    contents, body = "", ""
    for tag in description["tags"]:
        group = [one for one in operations if tag["name"] in one[2]["tags"]]
        contents += _contents(
            tag["name"], ((one["operationId"], f"{method.upper()} {path}") for method, path, one in group)
        )
        body += f"<h2>{escape(tag['name'])}</h2><p>{_text(tag['description'])}</p>"
        body += "".join(_operation(*one) for one in group)
    sent = {name: one["post"] for name, one in description["webhooks"].items()}
    contents += _contents("what we send", ((one["operationId"], name) for name, one in sent.items()))
    body += "<h2>What we send</h2>" + "".join(_operation("post", name, one) for name, one in sent.items())
    schemas = description["components"]["schemas"]
    contents += _contents("schemas", ((name, name) for name in schemas))
    body += "<h2>Schemas</h2>" + "".join(_schema(name, one) for name, one in schemas.items())
    return _PAGE.format(
        contents=contents,
        body=body,
        description=escape(description["info"]["description"]),
        openapi=escape(description["openapi"]),
        version=escape(description["info"]["version"]),
    )


def _contents(title: str, entries: Iterable[tuple[str, str]]) -> str:
    items = "".join(f'<li><a href="#{escape(to)}">{escape(text)}</a></li>' for to, text in entries)
    return f"<strong>{escape(title.capitalize())}</strong><ul>{items}</ul>"


def _operation(method: str, path: str, said: Json) -> str:
    keyless = " <em>No key.</em>" if said.get("security") == [] and path.startswith("/") else ""
    parts = [
        f'<section id="{escape(said["operationId"])}"><h3><b>{method.upper()}</b>{escape(path)}</h3>',
        f"<p>{_text(said['summary'])}. {_text(said.get('description', ''))}{keyless}</p>",
        _table("Parameters", (_parameter(one) for one in said.get("parameters", ()))),
        _table("Body", _contents_of(said.get("requestBody", {}))),
        _table("Answers", (_answer(status, one) for status, one in said["responses"].items())),
    ]
    return "".join(parts) + "</section>"


def _parameter(said: Json) -> tuple[str, str, str]:
    needed = ", required" if said.get("required") and said["in"] != "path" else ""
    return (
        f"<code>{escape(said['name'])}</code>",
        f"{said['in']}{needed}: {_type(said['schema'])}",
        _text(said.get("description", "")),
    )


def _contents_of(body: Json) -> Iterable[tuple[str, str, str]]:
    for media_type, content in body.get("content", {}).items():
        needed = "required" if body.get("required") else "may be left out"
        yield f"<code>{escape(media_type)}</code>", needed, _type(content["schema"])


def _answer(status: str, said: Json) -> tuple[str, str, str]:
    shown = []
    for media_type, content in said.get("content", {}).items():
        if codes := content.get("examples"):
            shown.append(", ".join(f'<a href="problems/{escape(code)}">{escape(code)}</a>' for code in codes))
        elif media_type == "application/json":
            shown.append(_type(content["schema"]))
        else:
            shown.append(f"<code>{escape(media_type)}</code>")
    return f"<code>{escape(status)}</code>", " ".join(shown), escape(said["description"])


def _schema(name: str, said: Json) -> str:
    needed = said.get("required", ())
    members = (
        (
            f"<code>{escape(member)}</code>",
            _type(one) + ("" if member in needed else ", may be left out"),
            _text(one.get("description", "")),
        )
        for member, one in said.get("properties", {}).items()
    )
    what = "" if said.get("properties") else f"<p>{_type(said)}</p>"
    head = f'<section id="{escape(name)}"><h3>{escape(name)}</h3><p>{_text(said.get("description", ""))}</p>'
    examples = "".join(
        f"<h4>Example</h4><pre>{escape(json.dumps(one, indent=2, ensure_ascii=False))}</pre>"
        for one in said.get("examples", ())
    )
    return f"{head}{what}{_table('', members)}{examples}</section>"


def _type(schema: Json) -> str:
    if target := schema.get("$ref"):
        name = escape(target.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("anyOf"):
        return " or ".join(_type(one) for one in choices)
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
    name = escape(schema.get("format") or schema.get("type", "anything"))
    if schema.get("type") == "array":
        name = f"list of {_type(schema['items'])}"
    return name + "".join(
        f", {word} {json.dumps(schema[key])}" for key, word in _BOUNDS.items() if key in schema
    )


_BOUNDS = {
    "minimum": "from",
    "maximum": "up to",
    "minLength": "characters from",
    "maxLength": "characters up to",
    "minItems": "items from",
    "maxItems": "items up to",
    "default": "by default",
}


def _table(title: str, rows: Iterable[tuple[str, str, str]]) -> str:
    body = "".join(f"<tr><th scope=row>{a}</th><td>{b}</td><td>{c}</td></tr>" for a, b, c in rows)
    heading = f"<h4>{title}</h4>" if title else ""
    return f'{heading}<div class="table"><table>{body}</table></div>' if body else ""


def _text(text: str) -> str:
    """Return prose with its `code` marked."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escape(text))
