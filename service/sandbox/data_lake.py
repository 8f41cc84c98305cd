"""A faithful stand-in for the data lake: the very cases of the portal's stand-in, in the data lake's forms.

Two sites: the API, and the files that its temporary links lead to, which refuse whoever brings a token along.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import format_datetime
from uuid import uuid4

from aiohttp import web

from service.core.cnj import parse_process_number
from service.core.errors import InvalidProcessNumberError
from service.sandbox.cases import Special, documents_of, fails_in_codex, process_object, special_of
from service.sandbox.portal import (
    DIGITS,
    PORTAL_STATE,
    PortalState,
    admit,
    answer_absent,
    answer_codex_failure,
    answer_json,
    answer_unknown_route,
    asked_document,
    get_binary,
    get_text,
    let_go,
    note_read,
    open_case,
)

PREFIX = "/processo-api/api/v1"

_SECRETS = ("Authorization", "X-PDPJ-CPF-USUARIO-OPERADOR")


@dataclass
class Files:
    """What the site of the files knows.

    Attributes:
        url: where it is served; set before the first link is asked for.
        prepare_s: what who asks first for the link to every fourth document is told to wait.
        link_ttl_s: how long a link lasts.
        links: the signature in each link -> its process, document and end by the clock.
        asked: document uuid -> requests for a link to it.
        leaks: requests that brought along what belongs to the API alone.
    """

    prepare_s: int
    link_ttl_s: float
    clock: Callable[[], float]
    url: str = ""
    links: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    leaks: int = 0


FILES: web.AppKey[Files] = web.AppKey("files", Files)


def create_data_lake(
    *,
    latency_s: float = 0.5,
    token: str | None = None,
    drip_s: float = 5.0,
    expiry_s: float = 3.0,
    prepare_s: int = 1,
    link_ttl_s: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[web.Application, web.Application]:
    """Build the API, which answers under `/processo-api/api/v1`, and the site of its files.

    Args:
        latency_s: the median wait before each answer of the API; 0 for none.
        token: the only bearer token that is let in; without one, everybody is.
        drip_s, expiry_s, clock: as of the portal's stand-in.
        prepare_s: see `Files`, as `link_ttl_s`.
    """
    state = PortalState(latency_s, token, drip_s, expiry_s, clock, prefix=PREFIX)
    files = Files(prepare_s, link_ttl_s, clock)
    return _create_api(state, files), _create_files(state, files)


def _create_api(state: PortalState, files: Files) -> web.Application:
    app = web.Application(middlewares=[admit, open_case])
    app[PORTAL_STATE], app[FILES] = state, files
    app.on_shutdown.append(let_go)
    process = f"{PREFIX}/processos/{{number}}"
    app.router.add_get(process, _get_process)
    app.router.add_get(f"{process}/ultima-atualizacao", _get_last_update)
    app.router.add_get(f"{process}/documentos", _list_documents)
    app.router.add_get(f"{process}/documentos/{{uuid}}/binario-url", _get_link)
    app.router.add_get(f"{process}/documentos/{{uuid}}/binario", get_binary)
    app.router.add_get(f"{process}/documentos/{{uuid}}/texto", get_text)
    # Not by `number`: these answer for every process, whatever else it does.
    app.router.add_get(f"{PREFIX}/processos/{{case}}/existe", _say_whether_it_exists)
    app.router.add_get(f"{PREFIX}/processos/{{case}}/possui-acesso", _say_whether_it_may_be_seen)
    app.router.add_route("*", "/{rest:.*}", answer_unknown_route)
    return app


def _create_files(state: PortalState, files: Files) -> web.Application:
    app = web.Application()
    app[PORTAL_STATE], app[FILES] = state, files
    app.router.add_get("/arquivos/{uuid}", _send_file)
    return app


# The API ------------------------------------------------------------------------------------------


async def _get_process(request: web.Request) -> web.StreamResponse:
    if (refusal := await note_read(request)) is not None:
        return refusal
    process = _described(request)
    course = process["tramitacaoAtual"]
    assert isinstance(course, dict)
    bare = {name: value for name, value in course.items() if name != "documentos"}
    return answer_json([process | {"tramitacaoAtual": bare, "tramitacoes": None}])


async def _list_documents(request: web.Request) -> web.StreamResponse:
    if special_of(request[DIGITS]) == Special.UNKNOWN:
        return answer_absent()
    course = _described(request)["tramitacaoAtual"]
    assert isinstance(course, dict)
    return answer_json({"documentos": course["documentos"]})


def _described(request: web.Request) -> dict[str, object]:
    digits = request[DIGITS]
    return process_object(digits, reads=request.app[PORTAL_STATE].processes[digits])


async def _get_last_update(request: web.Request) -> web.StreamResponse:
    """Say when the newest document came in that the next look at the process finds."""
    digits = request[DIGITS]
    documents = documents_of(digits, reads=request.app[PORTAL_STATE].processes[digits] + 1)
    if not documents:
        return answer_absent()
    changed_at = documents[-1].added_at.astimezone(UTC).replace(microsecond=0)
    return web.Response(headers={"Last-Modified": format_datetime(changed_at, usegmt=True)})


async def _get_link(request: web.Request) -> web.StreamResponse:
    document, files, digits = asked_document(request), request.app[FILES], request[DIGITS]
    if isinstance(document, web.Response):
        return document
    if fails_in_codex(digits, document):
        return answer_codex_failure(request)
    uuid = request.match_info["uuid"].lower()
    files.asked[uuid] += 1
    if document.position % 4 == 2 and files.asked[uuid] == 1:
        return web.Response(status=202, headers={"Retry-After": str(files.prepare_s)})
    signature = uuid4().hex
    files.links[signature] = digits, uuid, files.clock() + files.link_ttl_s
    # What has to stand in a link as it is, and would be another link when it is encoded anew.
    noise = f"{random.getrandbits(32):08x}%2F"  # no secret
    return answer_json({"url": f"{files.url}/arquivos/{uuid}?assinatura={noise}{signature}"})


async def _say_whether_it_exists(request: web.Request) -> web.StreamResponse:
    special = _special_case(request)
    return answer_json(special is not None and special != Special.UNKNOWN)


async def _say_whether_it_may_be_seen(request: web.Request) -> web.StreamResponse:
    special = _special_case(request)
    return answer_json(special is not None and special not in {Special.UNKNOWN, Special.NO_ACCESS})


def _special_case(request: web.Request) -> int | None:
    try:
        return special_of(parse_process_number(request.match_info["case"]))
    except InvalidProcessNumberError:
        return None


# The files ----------------------------------------------------------------------------------------


async def _send_file(request: web.Request) -> web.StreamResponse:
    files = request.app[FILES]
    if any(name in request.headers for name in _SECRETS):
        files.leaks += 1
        return _refusal(400, "InvalidArgument")
    noise, _, signature = request.query.get("assinatura", "").partition("/")
    digits, uuid, ends_at = files.links.get(signature, ("", "", 0.0))
    if not noise or uuid != request.match_info["uuid"] or files.clock() >= ends_at:
        return _refusal(403, "AccessDenied")
    if "%2F" not in request.raw_path.upper():
        return _refusal(403, "SignatureDoesNotMatch")
    request[DIGITS] = digits
    return await get_binary(request)


def _refusal(status: int, code: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code></Error>'
    return web.Response(text=text, content_type="application/xml", status=status)
