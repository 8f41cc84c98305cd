"""Metrics of this process, as Prometheus reads them."""

from aiohttp import web

from service import problems
from service.contract import Operation
from service.core import metrics
from service.keys import SETTINGS
from service.middleware import public
from service.problems import ProblemError


@Operation(
    "service",
    {200: (metrics.TEXT, metrics.OPENMETRICS)},
    problems=(problems.UNAUTHORIZED,),
)
@public
async def show_metrics(request: web.Request) -> web.Response:
    """Show the metrics of this process, for Prometheus.

    Everybody may see them, unless the operator has set a bearer token for them, which is no API key.
    """
    token = request.app[SETTINGS].metrics_token
    given = request.headers.get("Authorization", "")
    if not metrics.may_see(given, token.get_secret_value() if token else None):
        raise ProblemError(problems.UNAUTHORIZED, headers={"WWW-Authenticate": 'Bearer realm="autos"'})
    content_type, body = metrics.render(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
