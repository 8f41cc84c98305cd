"""`make chaos`: load and one random fault at a time, then heal, drain and check every invariant."""

import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import aiohttp

from service.core.db import open_database
from service.sandbox.cases import Special, special_number
from tests.faults.checker import Violation
from tests.faults.cluster import Cluster, open_cluster
from tests.faults.faults import FAULTS
from tests.faults.members import Member
from tests.faults.observers import MANNERS, Observer, new_observer
from tests.faults.proxy import Mood
from tests.faults.quiet import settle_and_check, until_quiet

_CALLERS = 6
_DRAIN_S = 180.0
_WARM_UP_S = 3.0
_SPECIAL = (
    Special.UNKNOWN,
    Special.NO_ACCESS,
    Special.CODEX_SOME,
    Special.CODEX_ALL,
    Special.EMPTY,
    Special.SEALED,
    Special.FLAKY,
    Special.BUSY,
    Special.GROWING,
    Special.THROTTLED,
    Special.TOKEN_EXPIRES,
    Special.LARGE,
)


@dataclass
class Report:
    """What a run came to."""

    seed: int
    jobs: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    deliveries: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    polls: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What is printed."""
        counts = {
            "jobs": self.jobs,
            "documents": self.documents,
            "deliveries": self.deliveries,
            "calls without an answer, or refused": self.unanswered,
            "faults": self.faults,
        }
        return [
            f"seed: {self.seed}",
            f"calls acknowledged: {self.calls}",
            f"polls answered: {self.polls}",
            *(f"{name}: {counter.total()} ({_shown(counter)})" for name, counter in counts.items()),
            *(f"VIOLATION {one.invariant}: {one.detail}" for one in self.violations),
            f"violations: {len(self.violations)}",
        ]


def _shown(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(counter.items())) or "none"


async def run(folder: Path, *, load_s: float, seed: int, only: frozenset[str] | None = None) -> Report:
    """Run load and faults for some seconds, heal, wait for quiet, clean up and check.

    Args:
        folder: for the backends' data and the processes' logs.
        only: the faults to choose from; all when None.
    """
    report, rng = Report(seed), random.Random(seed)
    async with open_cluster(folder) as cluster, _open_observers(cluster) as observers:
        stopping = asyncio.Event()
        load = [asyncio.create_task(_call(cluster, one, rng.random(), stopping)) for one in observers]
        await asyncio.sleep(min(_WARM_UP_S, load_s / 4))
        baseline = _resources(cluster.members)
        await _break_and_heal(cluster, rng, report, load_s, only)
        stopping.set()
        await asyncio.gather(*load)
        for proxy in cluster.proxies.values():
            await proxy.set_mood(Mood.THROUGH)
        async with open_database(cluster.settings) as db:
            await until_quiet(db, timeout_s=_DRAIN_S)
        at_the_end = _resources(cluster.members)
        cluster.evidence.resources = {name: (before, at_the_end[name]) for name, before in baseline.items()}
        report.violations = await settle_and_check(cluster.settings, cluster.evidence, timeout_s=1)
        await _count(cluster, observers, report)
        if defects := report.unanswered["500"]:
            report.violations.append(Violation("no answer is a defect of ours", f"{defects} answers of 500"))
    return report


@asynccontextmanager
async def _open_observers(cluster: Cluster) -> AsyncIterator[list[Observer]]:
    async with aiohttp.ClientSession() as http:
        async with open_database(cluster.settings) as db, db.connection() as conn:
            observers = [
                await new_observer(
                    conn, f"client {n}", base_urls=cluster.api_urls, http=http, evidence=cluster.evidence
                )
                for n in range(_CALLERS)
            ]
        yield observers


async def _break_and_heal(
    cluster: Cluster, rng: random.Random, report: Report, load_s: float, only: frozenset[str] | None
) -> None:
    """One fault after the other. Every kind comes before any comes again, if the time lasts."""
    ends, left = time.monotonic() + load_s, list[str]()
    while time.monotonic() < ends:
        if not left:
            left = sorted(only or FAULTS)
            rng.shuffle(left)
        name = left.pop()
        await FAULTS[name](cluster, rng, rng.uniform(0.5, 4.0))
        report.faults[name] += 1
        await asyncio.sleep(rng.uniform(0.2, 1.5))


# Load ---------------------------------------------------------------------------------------------


async def _call(cluster: Cluster, observer: Observer, seed: float, stopping: asyncio.Event) -> None:
    """Submit, poll, cancel and retry as callers do, until told to stop."""
    rng, known = random.Random(seed), list[tuple[UUID, str]]()
    begun = time.monotonic()
    while not stopping.is_set():
        what = rng.random()
        if what < 0.3 or not known:
            number = _some_number(rng, time.monotonic() - begun)
            submit = rng.choice((observer.submit, observer.ask))
            if job_id := await submit(number, _some_receiver(rng, cluster)):
                known.append((job_id, number))
        elif what < 0.9:
            await observer.poll(rng.choice(known[-20:])[0])
        elif what < 0.95:
            await observer.cancel(rng.choice(known[-3:])[0])
        else:
            ended, number = rng.choice(known[-20:])
            if job_id := await observer.retry(ended, number):
                known.append((job_id, number))
        await asyncio.sleep(rng.uniform(0.05, 0.5))


def _some_number(rng: random.Random, elapsed_s: float) -> str:
    """A case that nobody asked for yet, one that others ask for too, or one that is special."""
    if rng.random() < 0.25:
        return special_number(rng.choice(_SPECIAL))
    return special_number(1_000_000 + rng.randrange(5 + int(elapsed_s * 2)))


def _some_receiver(rng: random.Random, cluster: Cluster) -> str | None:
    if rng.random() < 0.3:
        return None
    return f"http://127.0.0.1:{cluster.proxies['receivers'].port}/{rng.choice(sorted(MANNERS))}/{rng.randrange(3)}"


# The end ------------------------------------------------------------------------------------------


async def _count(cluster: Cluster, observers: list[Observer], report: Report) -> None:
    async with open_database(cluster.settings) as db, db.connection() as conn:
        for table, counter in (
            ("jobs", report.jobs),
            ("documents", report.documents),
            ("deliveries", report.deliveries),
        ):
            rows = await conn.fetch(f"select status::text, count(*) from {table} group by status")
            counter.update({row["status"]: row["count"] for row in rows})
    report.calls, report.polls = len(cluster.evidence.calls), len(cluster.evidence.polls)
    for observer in observers:
        report.unanswered.update(observer.unanswered)


def _resources(members: list[Member]) -> dict[str, int]:
    """Open file descriptors of each process, and its resident memory in bytes."""
    found = {}
    for number, member in enumerate(members):
        if not member.is_running:
            continue
        process = Path(f"/proc/{member.pid}")
        found[f"{member.program} {number} fds"] = len(list((process / "fd").iterdir()))
        pages = int((process / "statm").read_text().split()[1])
        found[f"{member.program} {number} memory"] = pages * os.sysconf("SC_PAGESIZE")
    return found


def main() -> int:
    """Run for `CHAOS_MINUTES` (3) with `CHAOS_SEED` (a random one); 1 when an invariant broke."""
    minutes = float(os.environ.get("CHAOS_MINUTES", "3"))
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(2**32))
    print(f"chaos: {minutes:g} minutes, seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="autos-chaos-"))
    report = asyncio.run(run(folder, load_s=minutes * 60, seed=seed))
    if report.violations:
        print(f"logs: {folder}")
    else:
        shutil.rmtree(folder)
    print("\n".join(report.lines()))
    return int(bool(report.violations))


if __name__ == "__main__":
    sys.exit(main())
