"""The pages behind the `type` of every problem."""

import re
from html import escape

from aiohttp import web

from service.contract import Operation
from service.core.errors import NotFoundError
from service.middleware import public
from service.problems import CATALOGUE
from service.requests import asked_language
from service.words import say

_PAGE = """<!doctype html>
<html lang="{language}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title} · Autos</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem;
       color-scheme: light dark }}
code {{ font-size: .95em }}
</style>
<p><code>{code}</code> · HTTP {status}</p>
<h1>{title}</h1>
<p>{meaning}</p>
</html>
"""


@Operation("service", {200: "text/html"})
@public
async def show_problem(request: web.Request) -> web.Response:
    """Explain one type of problem."""
    problem = CATALOGUE.get(request.match_info["code"])
    if problem is None:
        raise NotFoundError("there is no such type of problem")
    language = asked_language(request)
    page = _PAGE.format(
        language=language,
        title=escape(say(problem.title, language)),
        code=escape(problem.code),
        status=problem.status,
        meaning=re.sub(r"`(.+?)`", r"<code>\1</code>", escape(say(problem.meaning, language))),
    )
    headers = {"Content-Language": language, "Vary": "Accept-Language"}
    return web.Response(text=page, content_type="text/html", headers=headers)
