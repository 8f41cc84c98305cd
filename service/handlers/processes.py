"""Processes: ask for one, see how it goes, get its files."""

from aiohttp import web

from service import answers, problems
from service.contract import Operation
from service.core import cnj, documents, polled_jobs, processes, secrecy
from service.handlers.jobs import api_prefix, show_polled
from service.handlers.submissions import submit
from service.keys import CLIENT, DATABASE, LOOKUPS, SETTINGS, STORAGE
from service.load import Kind
from service.middleware import need_scope, taken_as
from service.noting import note_access
from service.request_schemas import JobOptions, NoQuery, ProcessQuery, StatusQuery
from service.requests import read_query
from service.schemas import FilesAnswer, ProcessAnswer, StatusAnswer, SummaryAnswer


@Operation(
    "processes",
    {200: ProcessAnswer},
    query=ProcessQuery,
    problems=(problems.TOO_MANY_ACTIVE_JOBS,),
    reads=("traceparent",),
    tells=("Location",),
)
@taken_as(Kind.SUBMISSION)
async def get_process(request: web.Request) -> web.Response:
    """Answer what is known at once; with `auto_download` see to it that the documents come in."""
    number = cnj.parse_process_number(request.match_info["number"])
    query = read_query(request, ProcessQuery)
    if query.auto_download:
        need_scope(request, "write")
        told = query.model_dump(include={"webhook_url", "webhook_endpoint_id"})
        options = JobOptions(**told, force_refresh=query.force_refresh)
        await submit(request, number, options)
    elif query.webhook_url is not None or query.webhook_endpoint_id is not None:
        name = "webhook_endpoint_id" if query.webhook_url is None else "webhook_url"
        raise problems.invalid(f"#/{name}", "needs auto_download: without a job there is nothing to tell")
    app = request.app
    async with app[DATABASE].connection() as conn:
        job = await polled_jobs.latest_for_client(conn, number, request[CLIENT].id)
        process = await processes.get(conn, number)
        rows = await documents.list_of_job(conn, job.id)
    shown = answers.document_answers(
        rows, client=request[CLIENT], settings=app[SETTINGS], storage=app[STORAGE]
    )
    await note_access(request, "job.status", job.id, answers.count_links(shown), sequence=job.sequence)
    prefix = api_prefix(request)
    process = secrecy.shown_process(process, most=app[SETTINGS].secrecy_ceiling(request[CLIENT].max_secrecy))
    answer = answers.process_answer(process, job, shown, prefix=prefix)
    return answers.json_response(answer, headers={"Location": f"{prefix}/jobs/{job.id}"})


@Operation(
    "processes",
    {200: StatusAnswer | SummaryAnswer, 304: None},
    query=StatusQuery,
    reads=("If-None-Match", "Prefer"),
    tells=("ETag", "Retry-After", "Preference-Applied"),
)
@taken_as(Kind.STATUS)
async def get_status(request: web.Request) -> web.Response:
    """Show the progress of the client's newest job of this process, with every document."""
    number = cnj.parse_process_number(request.match_info["number"])
    client_id = request[CLIENT].id
    # The newest job may be another one the next time, and sequences begin anew with each.
    return await show_polled(
        request,
        lambda: request.app[LOOKUPS].latest_job(number, client_id),
        lambda job: f'W/"{job.id.hex[:8]}-{job.tag}"',
    )


@Operation("processes", {200: FilesAnswer})
async def get_files(request: web.Request) -> web.Response:
    """List the documents of this process with fresh links."""
    number = cnj.parse_process_number(request.match_info["number"])
    read_query(request, NoQuery)
    app = request.app
    async with app[DATABASE].connection() as conn:
        job = await polled_jobs.latest_for_client(conn, number, request[CLIENT].id)
        rows = await documents.list_of_process(conn, number)
    shown = answers.document_answers(
        rows, client=request[CLIENT], settings=app[SETTINGS], storage=app[STORAGE]
    )
    await note_access(request, "job.files", job.id, answers.count_links(shown), sequence=job.sequence)
    return answers.json_response(answers.files_answer(job, shown))
