"""Making pages: templates filled in the reader's language, and the headers that keep them harmless."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from service.core import cnj
from service.core.sessions import Session
from service.core.settings import Settings
from service.core.states import DocumentStatus, JobStatus
from service.dashboard import charts
from service.dashboard.reasons import REASONS
from service.dashboard.words_pt import PORTUGUESE
from service.keys import REQUEST_ID, SETTINGS
from service.problems import ProblemError
from service.requests import asked_language
from service.words import BRAZILIAN, ENGLISH, say

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SESSION = web.RequestKey("session", Session)
"""Who looks; set on every page behind the entrance."""

LANGUAGE_COOKIE = "autos_language"
_HERE = Path(__file__).parent
_NOTHING = "\N{EN DASH}"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def render(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
    """Answer with a template that is given `values`, and what every page is given."""
    language, session = language_of(request), request.get(SESSION)
    text = (
        _environment()
        .get_template(template)
        .render(
            **values,
            t=Translator(language),
            language=language,
            session=session,
            here=request.rel_url.raw_path_qs if request.method == "GET" else "/",
            path=request.path,
            can_write=session is not None and "write" in session.client.scopes,
        )
    )
    response = web.Response(text=text, content_type="text/html", status=status)
    response.headers.update(
        {
            "Cache-Control": "private, no-store",
            "Content-Language": language,
            "Content-Security-Policy": _policy(request.app[SETTINGS], ancestors="'none'"),
            # Without a referrer browsers tell no origin of a form, either, which `entrance` wants to see.
            "Referrer-Policy": "same-origin",
        }
    )
    return response


def framed(handler: Handler) -> Handler:
    """Mark a handler whose answers are shown in a frame of our own pages."""
    handler.is_framed = True  # type: ignore[attr-defined]
    return handler


def show_problem(request: web.Request, problem: ProblemError) -> web.Response:
    """Show what went wrong, with the status that the API would answer with."""
    is_framed = getattr(request.match_info.handler, "is_framed", False)
    response = render(
        request,
        "framed_error.html" if is_framed else "error.html",
        status=problem.problem.status,
        problem=problem,
        request_id=request[REQUEST_ID],
    )
    response.headers.update(problem.headers)
    if is_framed:
        response.headers["X-Frame-Options"] = "SAMEORIGIN"
        response.headers["Content-Security-Policy"] = _policy(request.app[SETTINGS], ancestors="'self'")
    return response


def language_of(request: web.Request) -> str:
    """Return the language that the reader chose, or else the one that his browser asks for."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    return chosen if chosen in (ENGLISH, BRAZILIAN) else asked_language(request)


class Translator:
    """`t("Jobs")`: a text of ours in the reader's language, with values for its `{}`."""

    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, text: str, *values: object) -> str:
        """Return the text; what the dashboard's own catalogue lacks is looked for in that of problems."""
        if self.language == BRAZILIAN:
            text = PORTUGUESE.get(text) or say(text, self.language)
        return text.format(*values) if values else text

    def reason(self, code: str | None) -> str:
        """Return why something failed or waits; a code without words of its own stands for itself."""
        return self(REASONS.get(code, code)) if code else self("some documents could not be had")

    def states(self) -> dict[str, str]:
        """Return the words for the states that the page's script may hear of."""
        return {state: self(state) for state in (*JobStatus, *DocumentStatus)}

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number as it is written in the language."""
        written = f"{value:,.{digits}f}"
        return written.translate(str.maketrans(",.", ".,")) if self.language == BRAZILIAN else written

    def size(self, size_bytes: int | None) -> str:
        """Return a number of bytes for people."""
        if size_bytes is None:
            return _NOTHING
        value, unit = float(size_bytes), 0
        while value >= 1024 and unit < len(_UNITS) - 1:
            value, unit = value / 1024, unit + 1
        return f"{self.number(value, 1 if unit else 0)}\N{NO-BREAK SPACE}{_UNITS[unit]}"

    def duration(self, seconds: float | None) -> str:
        """Return a time span in the two largest units that it has."""
        if seconds is None:
            return _NOTHING
        if seconds < 1:
            return f"{self.number(seconds * 1000)} ms"
        if seconds < 10:
            return f"{self.number(seconds, 1)} s"
        left, parts = round(seconds), list[str]()
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            if left >= size and len(parts) < 2:
                parts.append(f"{left // size} {name}")
                left %= size
        return " ".join(parts)


def when(at: datetime | None) -> str:
    """Return a moment, which the page's script then shows in the reader's own time zone."""
    if at is None:
        return _NOTHING
    utc = at.strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}">{} UTC</time>').format(at.isoformat(), utc)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"when": when, "mask": cnj.mask}
    environment.globals |= {"asset": asset_path, "bars": charts.bars, "line": charts.line}
    return environment


@cache
def _policy(settings: Settings, *, ancestors: str) -> str:
    """Nothing from elsewhere, no script or style in the page itself; documents are framed from the store."""
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            f"frame-src 'self' {store_origin(settings)}",
            "form-action 'self'",
            "base-uri 'none'",
            f"frame-ancestors {ancestors}",
        ]
    )


def store_origin(settings: Settings) -> str:
    """Return the origin of links to objects, as readers reach them."""
    url = urlsplit(settings.s3_public_url or settings.s3_endpoint_url or "")
    return f"{url.scheme}://{url.netloc}" if url.netloc else "https://*.amazonaws.com"


# Assets --------------------------------------------------------------------------------------------


@cache
def _assets() -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in (_HERE / "static").iterdir() if path.suffix in _TYPES}


@cache
def asset_path(name: str) -> str:
    """Return the path of an asset; another content has another one, so that browsers may keep it for good."""
    return f"/dashboard/assets/{hashlib.sha256(_assets()[name]).hexdigest()[:12]}/{name}"


def asset(name: str) -> tuple[bytes, str] | None:
    """Return an asset and its media type; None when there is none of this name."""
    body = _assets().get(name)
    return None if body is None else (body, _TYPES[Path(name).suffix])
