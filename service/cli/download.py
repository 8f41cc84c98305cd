"""Saving all documents of a process in a folder."""

import asyncio
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.cli.api import Api, path_of
from service.cli.errors import CallError
from service.cli.fetching import Wanted, save
from service.cli.jobs import find_newest, follow_to_end
from service.cli.saved_names import saved_names
from service.cli.screen import Progress, note
from service.cli.words import end_of, plain, reason, size
from service.schemas import DocumentAnswer, FilesAnswer, SummaryAnswer

_NOT_THERE = "there is no link to it: you may not have it, or it is not there any more"


@dataclass
class _Tally:
    """What became of each document, by the name of its file."""

    total_bytes: int
    count: int
    progress: Progress
    sizes: dict[str, int] = field(default_factory=dict)
    fetched: int = 0
    kept: int = 0
    missing: list[tuple[str, str]] = field(default_factory=list)

    def note_size(self, name: str, size_bytes: int) -> None:
        """Show that so many bytes of a file are there."""
        self.sizes[name] = size_bytes
        done = sum(self.sizes.values())
        percent = 100 * done / self.total_bytes if self.total_bytes else 100.0
        ended = self.fetched + self.kept
        self.progress.show(percent, f"{ended}/{self.count} files  {size(done)} of {size(self.total_bytes)}")


async def download(api: Api, arguments: Namespace) -> int:
    """Save every document of a process; wait for those that are still coming in."""
    folder = Path(arguments.to)
    job = await _found(api, arguments.number, is_submitted=arguments.submit)
    if job.completed_at is None:
        job = await follow_to_end(api, job)
    files = await api.get(f"{path_of(arguments.number)}/files", FilesAnswer)
    # In the court's order, the oldest first.
    wanted, missing = _sorted_out(files.documents[::-1])
    if not wanted and not missing:
        print(end_of(job))
        return 0 if job.status == "completed" else 1
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    progress = Progress(plain(job.process_number))
    tally = _Tally(sum(one.size_bytes for one in wanted), len(wanted), progress, missing=missing)
    try:
        await _save_all(api, wanted, folder, tally, parallel=arguments.parallel)
    finally:
        progress.close()
    is_whole = _told(tally, folder)
    if job.status == "completed":
        return 0 if is_whole else 1
    note(f"this may not be all, since the newest job did not complete: {end_of(job)}")
    return 1


async def _found(api: Api, number: str, *, is_submitted: bool) -> SummaryAnswer:
    """Return the caller's newest job of the process; a new one if he has none and wishes so."""
    if job := await find_newest(api, number):
        return job
    if not is_submitted:
        raise CallError(f"you have not asked for {plain(number)} yet: --submit asks for it first")
    return await api.submit("/jobs", SummaryAnswer, {"process_number": number})


def _sorted_out(documents: Sequence[DocumentAnswer]) -> tuple[list[Wanted], list[tuple[str, str]]]:
    """Return what is to be saved, and what cannot be, each with why; what no job has wanted is neither."""
    wanted, missing, names = [], [], saved_names(documents)
    for one in documents:
        name = names[one.id]
        if one.status == "skipped":
            continue
        if one.status != "available":
            missing.append((name, reason(one.error_code or one.status, one.error_message)))
        elif one.content_url is None or one.size is None or one.sha256 is None:
            missing.append((name, _NOT_THERE))
        else:
            link = one.download_url if one.download_url != one.content_url else None
            wanted.append(Wanted(one.id, name, one.size, one.sha256, link))
    return wanted, missing


async def _save_all(
    api: Api, wanted: Sequence[Wanted], folder: Path, tally: _Tally, *, parallel: int
) -> None:
    """Save these, some at a time; one that fails holds up no other."""
    waiting = iter(wanted)

    async def work() -> None:
        for one in waiting:
            await _save(api, one, folder, tally)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(parallel, len(wanted))):
                group.create_task(work())
    except ExceptionGroup as failed:  # what ends one of them ends the command, under its own name
        raise failed.exceptions[0] from None


async def _save(api: Api, wanted: Wanted, folder: Path, tally: _Tally) -> None:
    name = wanted.file_name
    try:
        is_new = await save(api, wanted, folder, on_size=lambda done: tally.note_size(name, done))
    except CallError as error:
        tally.missing.append((name, str(error)))
    except BrokenPipeError:
        raise  # a file has no such end: nobody reads what we say
    except OSError as error:
        tally.missing.append((name, f"it cannot be written: {error.strerror or type(error).__name__}"))
    else:
        tally.fetched += is_new
        tally.kept += not is_new


def _told(tally: _Tally, folder: Path) -> bool:
    """Say what became of them; False when some are missing."""
    for name, why in tally.missing:
        print(f"missing  {name}: {why}", file=sys.stderr)
    said = f"{tally.fetched} fetched, {tally.kept} were there already, {len(tally.missing)} missing"
    print(f"{plain(str(folder))}: {said}")
    return not tally.missing
