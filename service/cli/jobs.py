"""Asking for processes, and watching how they come in."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from service.cli.api import NO_TEXT, Api, as_json, path_of
from service.cli.errors import CallError, RefusedCallError, UsageError
from service.cli.screen import Progress, Table, is_live, note
from service.cli.words import counts, end_of, moment, plain, reason, size
from service.request_schemas import MOST_IN_A_BATCH
from service.schemas import (
    BatchAnswer,
    DocumentAnswer,
    ItemAnswer,
    JobListAnswer,
    StatusAnswer,
    SummaryAnswer,
)

_LONGEST_NUMBER = 64
_OPTIONS = ("webhook_url", "max_age_s", "priority", "reference")
# More than fit on any screen; older ones than these hardly change.
_MOST_SHOWN = 200


async def submit(api: Api, arguments: Namespace) -> int:
    """Ask for processes, a line for each; follow a single one to its end."""
    numbers = _numbers(arguments.numbers)
    is_one = arguments.numbers == numbers and len(numbers) == 1
    if arguments.follow and not is_one:
        raise UsageError("--follow goes with one number: watch shows how all jobs go")
    given = {name: getattr(arguments, name) for name in _OPTIONS}
    options = {name: value for name, value in given.items() if value is not None}
    if not is_one:
        return await _submit_many(api, numbers, options)
    job = await api.submit("/jobs", SummaryAnswer, {"process_number": numbers[0], **options})
    print(f"{plain(job.process_number)}  {plain(job.status)}  {job.job_id}", flush=True)
    if arguments.follow is False or (arguments.follow is None and not sys.stdout.isatty()):
        return 0
    return _told_end(await follow_to_end(api, job))


async def _submit_many(api: Api, numbers: Sequence[str], options: dict[str, Any]) -> int:
    refused = 0
    for start in range(0, len(numbers), MOST_IN_A_BATCH):
        asked = numbers[start : start + MOST_IN_A_BATCH]
        batch = await api.submit("/jobs/batch", BatchAnswer, {"process_numbers": asked, **options})
        for item in batch.items:
            print(_item(item))
        sys.stdout.flush()
        refused += batch.refused_processes
    note(f"{len(numbers) - refused} of {len(numbers)} processes are taken, {refused} refused")
    return 1 if refused else 0


def _numbers(given: Sequence[str]) -> list[str]:
    """Return what was given, with the words of standard input in place of `-`."""
    try:
        numbers = [word for one in given for word in (sys.stdin.read().split() if one == "-" else [one])]
    except UnicodeDecodeError:
        raise UsageError(NO_TEXT) from None
    if too_long := next((one for one in numbers if len(one) > _LONGEST_NUMBER), None):
        raise UsageError(f"this is no process number: {plain(too_long[:_LONGEST_NUMBER])}…")
    if not numbers:
        raise UsageError("no process number was given")
    return numbers


def _item(item: ItemAnswer) -> str:
    if item.problem is None:
        return f"{plain(item.process_number or '')}  {plain(item.status or '')}  {item.job_id}"
    why = f"{item.problem.get('title')}: {item.problem.get('detail')}"
    return f"{plain(item.process_number or '')}  refused  {plain(why)}"


async def follow_to_end(api: Api, job: SummaryAnswer) -> SummaryAnswer:
    """Show a job's progress until it ends; return its final state."""
    progress = Progress(plain(job.process_number))
    try:
        async with aclosing(api.follow(f"/jobs/{job.job_id}/events")) as events:
            while job.completed_at is None:
                progress.show(job.progress_percentage, _details(job), state=plain(job.status))
                event = await anext(events, None)
                if event is None:  # it has ended, and its end was told to a connection that was lost
                    return await api.get(f"/jobs/{job.job_id}", SummaryAnswer, fields="summary")
                if event.name == "job":
                    job = api.read(SummaryAnswer, event.data)
    finally:
        progress.close()
    return job


def _told_end(job: SummaryAnswer) -> int:
    print(end_of(job))
    return 0 if job.status == "completed" else 1


def _details(job: SummaryAnswer) -> str:
    said = f"{counts(job)} documents  {size(job.downloaded_bytes)}"
    return f"{said}  waits: {plain(job.waiting_reason)}" if job.waiting_reason else said


async def status(api: Api, arguments: Namespace) -> int:
    """Show how a process stands, with its documents if they are wished for."""
    path = f"{path_of(arguments.number)}/status"
    fields = "all" if arguments.documents else "summary"
    answer = await api.get_raw(path, fields=fields)
    if arguments.json:
        print(as_json(answer.body))
        return 0
    job = api.read(StatusAnswer if arguments.documents else SummaryAnswer, answer.body)
    for name, value in _described(job):
        print(f"{name:10} {value}")
    if isinstance(job, StatusAnswer):
        for document in reversed(job.documents):
            print(_document(document))
    return 0


def _described(job: SummaryAnswer) -> list[tuple[str, str]]:
    until = f"until {moment(job.next_attempt_at)}" if job.next_attempt_at else None
    said = [
        ("process", plain(job.process_number)),
        ("job", str(job.job_id)),
        ("reference", plain(job.reference or "")),
        ("status", f"{plain(job.status)}, {job.progress_percentage:.0f} %"),
        ("documents", counts(job)),
        ("bytes", f"{size(job.downloaded_bytes)} of {size(job.expected_bytes)}"),
        ("error", reason(job.error_code, job.error_message)),
        ("waits", reason(job.waiting_reason, until)),
        ("webhook", plain(job.webhook_url or str(job.webhook_endpoint_id or ""))),
        ("sent", moment(job.webhook_sent_at) if job.webhook_sent_at else plain(job.webhook_last_error or "")),
        ("asked", moment(job.created_at)),
        ("ended", moment(job.completed_at) if job.completed_at else ""),
    ]
    return [(name, value) for name, value in said if value]


def _document(document: DocumentAnswer) -> str:
    about = size(document.size) if document.size else reason(document.error_code, document.error_message)
    return f"{document.position:6}  {plain(document.status):10}  {about:>9}  {plain(document.name)}"


async def watch(api: Api, arguments: Namespace) -> int:
    """Show the progress of one process to its end, or every change of all jobs until it is stopped."""
    if arguments.number is None:
        await _watch_all(api)
        return 0
    job = await find_newest(api, arguments.number)
    if job is None:
        raise CallError(f"you have not asked for {plain(arguments.number)} yet: submit it first")
    return _told_end(await follow_to_end(api, job))


async def find_newest(api: Api, number: str) -> SummaryAnswer | None:
    """Return the caller's newest job of a process; None when he has never asked for it."""
    try:
        return await api.get(f"{path_of(number)}/status", SummaryAnswer, fields="summary")
    except RefusedCallError as error:
        if error.code == "not-found":
            return None
        raise


async def _watch_all(api: Api) -> None:
    news, is_listed = _News(), False
    async with aclosing(api.follow("/events")) as events:
        async for event in events:
            if event.name == "job":
                news.tell([api.read(SummaryAnswer, event.data)])
            # Not before it is known where the stream stands: no change falls between that and the list.
            if event.last_id is not None and not is_listed:
                is_listed = True
                jobs = await api.get(
                    "/jobs", JobListAnswer, status="pending,processing", limit=str(_MOST_SHOWN)
                )
                news.tell(jobs.items[::-1])


class _News:
    """The jobs that were told of: a table of the newest on a terminal, elsewhere a line for each change."""

    def __init__(self) -> None:
        self._table = Table() if is_live() else None
        self._lines: dict[str, tuple[int, str]] = {}

    def tell(self, jobs: Sequence[SummaryAnswer]) -> None:
        """Show these jobs, of which the last changed last."""
        for job in jobs:
            key = str(job.job_id)
            # The list, and a stream after a lost connection, may tell of what is known.
            if self._lines.get(key, (0, ""))[0] >= job.sequence:
                continue
            self._lines.pop(key, None)
            self._lines[key] = (job.sequence, _line(job))
            if self._table is None:
                print(_line(job), flush=True)
        while len(self._lines) > _MOST_SHOWN:
            del self._lines[next(iter(self._lines))]
        if self._table is not None:
            self._table.draw([line for _, line in reversed(self._lines.values())])


def _line(job: SummaryAnswer) -> str:
    percent = f"{job.progress_percentage:3.0f} %"
    said = f"{plain(job.process_number)}  {plain(job.status):10}  {percent}  {counts(job)}"
    why = reason(job.error_code or job.waiting_reason, job.error_message)
    return f"{said}  {why}" if why else said
