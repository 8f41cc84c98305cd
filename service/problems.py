"""The catalogue of problems (RFC 9457): every error an answer can name, with its page of documentation."""

from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from service.words import ENGLISH, say


@dataclass(frozen=True, slots=True)
class Problem:
    """One type of problem; `code` is the last part of its URI, `title` never varies."""

    code: str
    status: int
    title: str
    meaning: str


BAD_REQUEST = Problem(
    "bad-request",
    400,
    "The request could not be read",
    "The body is not the JSON it says it is, or a cursor does not belong to this list.",
)
UNAUTHORIZED = Problem(
    "unauthorized",
    401,
    "A valid API key is required",
    "Send your key as `Authorization: Bearer <key>` or `X-API-Key: <key>`. The key is missing, unknown, "
    "expired or revoked; the answer does not say which.",
)
NOT_FOUND = Problem(
    "not-found",
    404,
    "Not found",
    "There is no such thing, or it belongs to another client. A process is known to a client once it asked "
    "for it with `GET /processes/{number}` or `POST /jobs`.",
)
METHOD_NOT_ALLOWED = Problem(
    "method-not-allowed", 405, "Method not allowed", "The `Allow` header names the methods of this path."
)
PAYLOAD_TOO_LARGE = Problem(
    "payload-too-large", 413, "The body is too large", "A body may have 64 KiB at most."
)
UNSUPPORTED_MEDIA_TYPE = Problem(
    "unsupported-media-type",
    415,
    "The body has an unsupported type",
    "Send `Content-Type: application/json`, without a content encoding.",
)
INVALID_REQUEST = Problem(
    "invalid-request",
    422,
    "The request is invalid",
    "`errors` lists what is wrong, each with a JSON Pointer to the member or parameter.",
)
INVALID_PROCESS_NUMBER = Problem(
    "invalid-process-number",
    422,
    "Not a CNJ process number",
    "A number has the form NNNNNNN-DD.AAAA.J.TR.OOOO (or its 20 digits) with the right check digits DD.",
)
INTERNAL = Problem(
    "internal-error", 500, "Internal error", "A defect of ours; it was logged. Trying again may help."
)
NOT_AVAILABLE = Problem(
    "document-not-available",
    409,
    "The document is not available",
    "The document has not been fetched (yet); its status and error code say why.",
)
GONE = Problem(
    "document-gone",
    410,
    "The file of the document is gone",
    "It was stored and has vanished since. Ask for its process again, and it will be fetched again.",
)
TEXT_NOT_AVAILABLE = Problem(
    "text-not-available",
    404,
    "There is no text of the document",
    "The court has made no text of this document, or none that can be had; its file may exist.",
)
KEY_IN_USE = Problem(
    "idempotency-key-in-use",
    409,
    "The first request with this key is under way",
    "Repeat the request a moment later: you will get the first one's answer.",
)
KEY_REUSED = Problem(
    "idempotency-key-reused",
    422,
    "The idempotency key belongs to another request",
    "A key names one request: send a new one with another body.",
)
ERASED = Problem(
    "erased",
    410,
    "What this key was answered with was erased",
    "The process has been erased since the first request with this idempotency key. The key stays spent, so "
    "that a repeated request does not bring it back; a new one asks for it anew.",
)
JOB_FINAL = Problem(
    "job-final", 409, "The job has ended already", "A job that has ended cannot be cancelled any more."
)
JOB_SHARED = Problem(
    "job-shared",
    409,
    "Others wait for this job",
    "Clients who ask for one process at the same time share its job, and none of them can cancel it alone.",
)
INSUFFICIENT_SCOPE = Problem(
    "insufficient-scope",
    403,
    "The key is not for this",
    "A key with the scope `read` may look; what starts, stops or sends something needs `write`; to erase a "
    "process needs `erase`, and `operator` too for what every client has of it.",
)
FOREIGN_FORM = Problem(
    "foreign-form",
    403,
    "The form comes from elsewhere",
    "What changes something on the dashboard has to be sent by the dashboard itself, in a browser.",
)
TOO_SECRET = Problem(
    "document-too-secret",
    403,
    "The document is too secret for you",
    "Its level of secrecy, or that of its case, is above the one up to which you may have documents.",
)
RATE_LIMITED = Problem(
    "rate-limited",
    429,
    "Too many requests with this key",
    "The header `RateLimit` says how many are left and in how many seconds all of them are back; "
    "`Retry-After` when one more will be taken. Polling with `wait` and streams need fewer requests.",
)
OVERLOADED = Problem(
    "overloaded",
    503,
    "The service has too much to do for a moment",
    "Nothing was begun; try again after `Retry-After` seconds. Submissions are refused first, status reads "
    "last.",
)
TOO_MANY_ACTIVE_JOBS = Problem(
    "too-many-active-jobs",
    429,
    "You have too many active jobs",
    "A client may have a limited number of jobs that have not ended. Wait until some of yours have.",
)
NOTHING_TO_RETRY = Problem(
    "nothing-to-retry",
    409,
    "There is nothing to retry",
    "Only a job that ended without some of its documents can be tried again.",
)
ENDPOINT_DISABLED = Problem(
    "endpoint-disabled",
    409,
    "The endpoint is disabled",
    "Nothing is sent to an endpoint that is disabled or deleted. Enable it with "
    "`PATCH /webhooks/endpoints/{id}`, then have sent again what it missed.",
)
TOO_MANY_ENDPOINTS = Problem(
    "too-many-endpoints",
    409,
    "You have too many endpoints",
    "A client may have a limited number of webhook endpoints. Delete one that you no longer need.",
)
UNAVAILABLE = Problem(
    "service-unavailable",
    503,
    "The service is unavailable for a moment",
    "A dependency does not answer. Nothing was lost; try again after `Retry-After` seconds.",
)
TIMEOUT = Problem("request-timeout", 408, "The request took too long", "The body did not arrive in time.")

CATALOGUE = {
    problem.code: problem
    for problem in (
        BAD_REQUEST,
        UNAUTHORIZED,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        TIMEOUT,
        NOT_AVAILABLE,
        TEXT_NOT_AVAILABLE,
        GONE,
        KEY_IN_USE,
        KEY_REUSED,
        ERASED,
        JOB_FINAL,
        JOB_SHARED,
        NOTHING_TO_RETRY,
        TOO_MANY_ACTIVE_JOBS,
        ENDPOINT_DISABLED,
        TOO_MANY_ENDPOINTS,
        INSUFFICIENT_SCOPE,
        FOREIGN_FORM,
        TOO_SECRET,
        RATE_LIMITED,
        OVERLOADED,
        PAYLOAD_TOO_LARGE,
        UNSUPPORTED_MEDIA_TYPE,
        INVALID_REQUEST,
        INVALID_PROCESS_NUMBER,
        INTERNAL,
        UNAVAILABLE,
    )
}


class ProblemError(Exception):
    """Ends a handler with a problem answer.

    Args:
        detail: helps the human; no internals. Left out, it is what `errors` say, or what the type means.
        errors: for validation, items of `detail` and `pointer` (a JSON Pointer as URI fragment).
    """

    def __init__(
        self,
        problem: Problem,
        detail: str | None = None,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(problem.title)
        self.problem = problem
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}


def invalid(pointer: str, detail: str) -> ProblemError:
    """One thing is wrong, at one place."""
    return ProblemError(INVALID_REQUEST, detail, errors=[{"pointer": pointer, "detail": detail}])


def problem_response(
    error: ProblemError, *, base_url: str, instance: str, language: str, request_id: str
) -> web.Response:
    """Answer with `application/problem+json`."""
    body = problem_body(error, base_url=base_url, instance=instance, language=language, request_id=request_id)
    return web.Response(
        body=orjson.dumps(body),
        status=error.problem.status,
        content_type="application/problem+json",
        headers={"Content-Language": language, "Vary": "Accept-Language", **error.headers},
    )


def problem_body(
    error: ProblemError,
    *,
    base_url: str,
    instance: str,
    language: str = ENGLISH,
    request_id: str | None = None,
) -> dict[str, Any]:
    """Describe a problem as RFC 9457 has it.

    Args:
        request_id: of the request that it is the answer to; None for what is a part of an answer.
    """
    errors = [{**one, "detail": say(one["detail"], language)} for one in error.errors or ()]
    joined = "; ".join(f"{one['pointer'][2:] or 'body'}: {one['detail']}" for one in errors)
    body: dict[str, Any] = {
        "type": f"{base_url}/problems/{error.problem.code}",
        "title": say(error.problem.title, language),
        "status": error.problem.status,
        "detail": say(error.detail, language)
        if error.detail
        else joined or say(error.problem.meaning, language),
        "instance": instance,
    }
    if request_id:
        body["request_id"] = request_id
    if errors:
        body["errors"] = errors
    return body
