"""A form to ask for processes."""

from dataclasses import dataclass
from uuid import UUID

from aiohttp import web

from service import answers
from service.core import endpoints
from service.core.endpoints import MOST_ENDPOINTS
from service.core.errors import AutosError, DatabaseUnavailableError
from service.core.states import Priority
from service.dashboard.entrance import Form, read_form, see_other, signed_in
from service.dashboard.pages import render
from service.handlers.submissions import submit
from service.keys import CLIENT, DATABASE
from service.middleware import translate
from service.problems import ProblemError
from service.request_schemas import JobOptions
from service.requests import validate

_MOST_NUMBERS = 100


@dataclass(frozen=True, slots=True)
class Result:
    """What has become of one line of the form: a job, or why there is none."""

    number: str
    job_id: UUID | None = None
    outcome: str | None = None
    problem: ProblemError | None = None


@signed_in("write")
async def show_form(request: web.Request) -> web.Response:
    """Show the empty form."""
    return await _form(request)


@signed_in("write")
async def submit_form(request: web.Request) -> web.StreamResponse:
    """Submit each number; one alone leads to its job, several are listed with what has become of them."""
    form = await read_form(request)
    lines = [line.strip() for line in form["numbers"].splitlines() if line.strip()]
    numbers = list(dict.fromkeys(lines))
    asked: dict[str, object] = {
        name: value
        for name in ("webhook_url", "webhook_endpoint_id", "reference", "priority")
        if (value := form[name].strip())
    }
    if form["force_refresh"]:
        asked["force_refresh"] = True
    try:
        options = validate(JobOptions, asked)
    except ProblemError as problem:
        return await _form(request, form, status=problem.problem.status, problem=problem)
    if not 1 <= len(numbers) <= _MOST_NUMBERS:
        return await _form(request, form, status=422, is_empty=not numbers, is_too_long=bool(numbers))
    results = [await _submit(request, number, options) for number in numbers]
    if len(results) == 1 and results[0].job_id:
        see_other(f"/dashboard/jobs/{results[0].job_id}")
    status = 200 if any(one.job_id for one in results) else 422
    return await _form(request, form if status == 422 else None, status=status, results=results)


async def _submit(request: web.Request, number: str, options: JobOptions) -> Result:
    try:
        submitted = await submit(request, number, options)
    except DatabaseUnavailableError:
        raise
    except (AutosError, ProblemError) as error:
        return Result(number, problem=translate(error))
    return Result(number, submitted.job.id, submitted.outcome)


async def _form(
    request: web.Request, form: Form | None = None, *, status: int = 200, **values: object
) -> web.Response:
    shown = {"problem": None, "results": [], "is_empty": False, "is_too_long": False, **values}
    async with request.app[DATABASE].connection() as conn:
        found = await endpoints.list_of_client(conn, request[CLIENT].id, before=None, limit=MOST_ENDPOINTS)
    return render(
        request,
        "submit.html",
        status=status,
        form=form or Form(),
        most=_MOST_NUMBERS,
        priorities=list(Priority),
        endpoints=[answers.endpoint_answer(one) for one in found if one.disabled_at is None],
        **shown,
    )
