"""Which page is where."""

from aiohttp import web

from service.dashboard import deliveries, documents, endpoints, entrance, failed, home, jobs, submit
from service.dashboard.entrance import read_form
from service.dashboard.pages import LANGUAGE_COOKIE, asset, asset_path
from service.keys import SETTINGS
from service.middleware import page, public
from service.words import BRAZILIAN, ENGLISH

_AT = "/dashboard"
_ID = "[0-9A-Fa-f-]+"
_A_YEAR_S = 365 * 24 * 3600


@public
async def show_asset(request: web.Request) -> web.Response:
    """Send a style sheet, the script or the icon; their paths change with their content."""
    found = asset(request.match_info["name"])
    # Under the digest of another version it must not be kept: a process of the next one will have that.
    if found is None or request.path != asset_path(request.match_info["name"]):
        raise web.HTTPNotFound
    body, media_type = found
    headers = {"Cache-Control": f"public, max-age={_A_YEAR_S}, immutable"}
    return web.Response(body=body, content_type=media_type, charset="utf-8", headers=headers)


@page
async def choose_language(request: web.Request) -> web.StreamResponse:
    """Remember in which language the pages are to be."""
    form = await read_form(request)
    chosen = BRAZILIAN if form["language"] == BRAZILIAN else ENGLISH
    response = web.Response(status=303, headers={"Location": entrance.local_path(form["next"])})
    is_https = request.app[SETTINGS].public_url.startswith("https:")
    response.set_cookie(
        LANGUAGE_COOKIE, chosen, max_age=_A_YEAR_S, httponly=True, samesite="Lax", secure=is_https
    )
    return response


@page
async def to_overview(_request: web.Request) -> web.StreamResponse:
    """Lead who typed the path that all pages begin with to the first of them."""
    return web.Response(status=303, headers={"Location": "/"})


@page
async def show_nothing(_request: web.Request) -> web.StreamResponse:
    """Tell a person, in a page, that there is no such page."""
    raise web.HTTPNotFound


def routes() -> list[web.RouteDef]:
    """Return the routes of the dashboard."""
    job, endpoint = f"{_AT}/jobs/{{job_id:{_ID}}}", f"{_AT}/endpoints/{{endpoint_id:{_ID}}}"
    delivery, document = (
        f"{_AT}/deliveries/{{delivery_id:{_ID}}}",
        f"{_AT}/documents/{{document_id:{_ID}}}",
    )
    return [
        web.get("/", home.show_home),
        web.get("/login", entrance.show_login),
        web.post("/login", entrance.sign_in),
        web.post("/logout", entrance.sign_out),
        web.post(f"{_AT}/look-as", entrance.look_as),
        web.post(f"{_AT}/language", choose_language),
        web.get(f"{_AT}/assets/{{digest}}/{{name}}", show_asset),
        web.get(f"{_AT}/events", jobs.follow_everything, allow_head=False),
        web.get(f"{_AT}/jobs", jobs.list_jobs),
        web.get(job, jobs.show_job),
        web.get(f"{job}/events", jobs.follow, allow_head=False),
        web.post(f"{job}/retry", jobs.retry),
        web.post(f"{job}/cancel", jobs.cancel),
        web.get(document, documents.show_document),
        web.get(f"{document}/content", documents.download),
        web.get(f"{document}/preview", documents.send_preview, allow_head=False),
        web.get(f"{_AT}/failed", failed.show_failed),
        web.post(f"{_AT}/failed/retry", failed.retry_all),
        web.post(f"{_AT}/failed/redeliver", failed.redeliver_all),
        web.get(f"{_AT}/deliveries", deliveries.list_deliveries),
        web.get(delivery, deliveries.show_delivery),
        web.post(f"{delivery}/redeliver", deliveries.send_again),
        web.get(f"{_AT}/endpoints", endpoints.show_endpoints),
        web.post(f"{_AT}/endpoints", endpoints.create),
        web.post(f"{endpoint}/enable", endpoints.enable),
        web.post(f"{endpoint}/disable", endpoints.disable),
        web.post(f"{endpoint}/delete", endpoints.delete),
        web.get(f"{_AT}/submit", submit.show_form),
        web.post(f"{_AT}/submit", submit.submit_form),
        web.get(_AT, to_overview),
        web.get(f"{_AT}/{{rest:.*}}", show_nothing),
    ]
