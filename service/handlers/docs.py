"""What the API says of itself, for programs and for people."""

import orjson
from aiohttp import web

from service.contract import OBJECT, Operation
from service.docs_page import render
from service.keys import OPENAPI
from service.middleware import public

_KEPT = {"Cache-Control": "public, max-age=300"}


@Operation("service", {200: OBJECT})
@public
async def show_openapi(request: web.Request) -> web.Response:
    """Describe this API as OpenAPI 3.1 does, for client generators and test tools."""
    body = orjson.dumps(request.app[OPENAPI])
    return web.Response(body=body, content_type="application/json", headers=_KEPT)


@Operation("service", {200: "text/html"})
@public
async def show_docs(request: web.Request) -> web.Response:
    """Show this description as a page to read."""
    return web.Response(text=render(request.app[OPENAPI]), content_type="text/html", headers=_KEPT)
