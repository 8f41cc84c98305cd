"""Who may look at the dashboard: a key is given once and becomes a session, known by a cookie."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import NoReturn
from urllib.parse import quote, urlsplit

from aiohttp import web

from service import problems
from service.core import clients, sessions
from service.core.clients import Client
from service.core.db import Database
from service.core.sessions import Session
from service.dashboard.pages import SESSION, render
from service.keys import CLIENT, DATABASE, LOOK_AGAIN, LOOKUPS, RATE_LIMIT, SETTINGS
from service.middleware import need_scope, page
from service.problems import ProblemError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FORM_TIMEOUT_S = 10.0
_TRIES_PER_MINUTE = 60
_COOKIE = "autos_session"
# Browsers take a cookie of this name only over TLS, from this very host, for all paths.
_SAFE_COOKIE = "__Host-autos_session"
# Sends a document from here or from the store, to which browsers let no form lead.
_BYTES = re.compile(r"(/dashboard/documents/[^/?]+)/(?:content|preview)(?:\?.*)?")


def signed_in(scope: str = "read") -> Callable[[Handler], Handler]:
    """Let a handler be asked by who has a session whose key is for this; others are led to the entrance.

    What is posted has to come from a page of ours.
    """

    def guard(handler: Handler) -> Handler:
        @page
        @wraps(handler)
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                await _let_in(request)
                need_scope(request, scope)
                return await handler(request)
            except web.HTTPSeeOther as elsewhere:
                return web.Response(status=elsewhere.status, headers={"Location": str(elsewhere.location)})

        return guarded

    return guard


async def _let_in(request: web.Request) -> None:
    """Find out whose session it is.

    Raises:
        HTTPSeeOther: there is none; to the entrance.
        ProblemError: 403, a form that was not sent by a page of ours.
    """
    token = request.cookies.get(_cookie_name(request))
    if token and token.isascii():
        db = request.app[DATABASE]
        found = await _find(db, token)
        if found is not None:
            request[SESSION], request[CLIENT] = found, found.client
            request[LOOK_AGAIN] = lambda: _find_client(db, token)
            if request.method == "POST":
                _need_same_origin(request)
                await _count_form(request, found.client)
            return
    wanted = local_path(request.rel_url.raw_path_qs) if request.method == "GET" else "/"
    raise web.HTTPSeeOther("/login" if wanted == "/" else f"/login?next={quote(wanted, safe='')}")


async def _find(db: Database, token: str) -> Session | None:
    async with db.connection() as conn:
        return await sessions.find(conn, token)


async def _find_client(db: Database, token: str) -> Client | None:
    found = await _find(db, token)
    return found.client if found else None


@page
async def show_login(request: web.Request) -> web.Response:
    """Ask for a key."""
    return render(request, "login.html", next=local_path(request.query.get("next")))


@page
async def sign_in(request: web.Request) -> web.StreamResponse:
    """Turn a key into a session."""
    form = Form()
    try:
        _need_same_origin(request)
        form = await read_form(request)
        token = await _begin(request, form["key"].strip())
    except ProblemError as error:
        if error.problem is not problems.UNAUTHORIZED:
            raise
        return render(request, "login.html", status=401, next=local_path(form["next"]), is_refused=True)
    response = web.Response(status=303, headers={"Location": local_path(form["next"])})
    response.set_cookie(
        _cookie_name(request),
        token,
        max_age=int(sessions.LIFETIME.total_seconds()),
        httponly=True,
        samesite="Lax",  # what is posted is held against its origin besides
        secure=_is_https(request),
        path="/",
    )
    return response


async def _begin(request: web.Request, key: str) -> str:
    client = None
    if clients.is_plausible(key):
        client = await request.app[LOOKUPS].client(clients.hash_key(key))
    if client is None or "read" not in client.scopes:
        # Only what failed: behind a proxy all readers come from one address, and none may lock out another.
        await _count(request, f"sign-in:{request.remote}", limit=_TRIES_PER_MINUTE)
        raise ProblemError(problems.UNAUTHORIZED)
    key_id = client.key_id
    return await request.app[DATABASE].in_transaction(lambda conn: sessions.begin(conn, key_id))


async def _count_form(request: web.Request, client: Client) -> None:
    """Count a form against the limit of the key that the session is of."""
    limit = client.requests_per_minute or request.app[SETTINGS].requests_per_minute
    await _count(request, f"form:{client.key_id}", limit=limit)


async def _count(request: web.Request, name: str, *, limit: int) -> None:
    verdict = await request.app[RATE_LIMIT].admit(name, limit=limit)
    if not verdict.is_admitted:
        raise ProblemError(problems.RATE_LIMITED, headers={"Retry-After": str(verdict.retry_after_s)})


@signed_in()
async def sign_out(request: web.Request) -> web.StreamResponse:
    """End the session."""
    token = request.cookies[_cookie_name(request)]
    async with request.app[DATABASE].connection() as conn:
        await sessions.end(conn, token)
    response = web.Response(status=303, headers={"Location": "/login"})
    response.del_cookie(_cookie_name(request), path="/", secure=_is_https(request))
    return response


@signed_in(clients.OPERATOR)
async def look_as(request: web.Request) -> web.StreamResponse:
    """Take the view of another client."""
    form = await read_form(request)
    token = request.cookies[_cookie_name(request)]
    async with request.app[DATABASE].connection() as conn:
        await sessions.look_as(conn, token, form["client"])
    see_other(local_path(form["next"]))


class Form(dict[str, str]):
    """The fields of a form; what is not there is empty."""

    def __missing__(self, _name: str) -> str:
        return ""


async def read_form(request: web.Request) -> Form:
    """Return the fields of a form; of one that is given more than once the last.

    Raises:
        ProblemError: 400 not readable, 408 too slow, 413 too large, 415 another type.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise ProblemError(problems.UNSUPPORTED_MEDIA_TYPE)
    # As our pages send it; what comes out of some encodings that Python knows is no text.
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise ProblemError(problems.BAD_REQUEST, "a form has to be in UTF-8")
    try:
        async with asyncio.timeout(_FORM_TIMEOUT_S):
            form = await request.post()
    except TimeoutError as error:
        raise ProblemError(problems.TIMEOUT) from error
    except (ValueError, web.RequestPayloadError) as error:  # not in it
        raise ProblemError(problems.BAD_REQUEST, "the body is not what its headers say") from error
    return Form({name: value for name, value in form.items() if isinstance(value, str)})


def see_other(location: str) -> NoReturn:
    """Lead the reader to a page of ours after something was done.

    Raises:
        HTTPSeeOther: always.
    """
    raise web.HTTPSeeOther(location)


def _need_same_origin(request: web.Request) -> None:
    """Refuse what a page of somebody else's has posted with our reader's cookie.

    Raises:
        ProblemError: 403.
    """
    # By Fetch Metadata, which every browser of these years sends; by Origin for the others.
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:
        origin = urlsplit(request.headers.get("Origin", ""))
        site = "same-origin" if origin.netloc == request.host else "none"
    if site != "same-origin":
        raise ProblemError(problems.FOREIGN_FORM)


def local_path(path: str | None) -> str:
    """Return where to go after the entrance: a page of ours and nothing else."""
    if not path or not path.startswith("/") or path.startswith(("//", "/\\")) or not path.isprintable():
        return "/"
    sent = _BYTES.fullmatch(path)
    return sent[1] if sent else path


def _cookie_name(request: web.Request) -> str:
    return _SAFE_COOKIE if _is_https(request) else _COOKIE


def _is_https(request: web.Request) -> bool:
    return request.app[SETTINGS].public_url.startswith("https:")
