"""What runs on this machine, read from /proc."""

import asyncio
import os
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """Return the processes that the process has started, and those that they have, and so on."""
    parents = _parents()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def running(pids: set[int]) -> set[int]:
    """Return those that have not ended; an ended one that nobody has waited for has ended."""
    return pids & _parents().keys()


def command_of(pid: int) -> list[str]:
    """Return the program and its arguments."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")


async def ended(pid: int, *, timeout_s: float = 15) -> None:
    """Wait until the process has ended; it need not be our child."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    event, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(handle, event.set)
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _parents() -> dict[int, int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything; state and parent follow it.
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    return parents
