"""`python -m tests.bench [LETTER…] [--rounds N]`: the figures of the README, measured side by side.

Prints a table of medians with their spread and the goals, and writes both as JSON into `results/`.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from tests.bench import downloads, growth, polls, submits, webhooks
from tests.bench.report import Report
from tests.bench.servers import Servers, open_servers

_ROUNDS = 3

Measure = Callable[[Servers, Report, int], Awaitable[None]]


async def _a(servers: Servers, report: Report, rounds: int) -> None:
    name = downloads.A.name
    await downloads.measure(servers, report, downloads.A, rounds=rounds)
    pace = {who: report.median(name, who, "documents__s") for who in downloads.A.contenders}
    report.judge("A documents/s against the replaced design", pace["Autos"] / pace["replaced design"], 20)
    report.judge("A documents/s against the limit", pace["Autos"] / pace["limit"], 0.85)


async def _b(servers: Servers, report: Report, rounds: int) -> None:
    name = downloads.B.name
    await downloads.measure(servers, report, downloads.B, rounds=rounds)
    pace = {who: report.median(name, who, "jobs_per_CPU_second") for who in downloads.B.contenders}
    report.judge("B jobs per CPU second against the peer", pace["Autos"] / pace["peer"], 2)


async def _c(servers: Servers, report: Report, rounds: int) -> None:
    name = downloads.C.name
    await downloads.measure(servers, report, downloads.C, rounds=rounds)
    took = {who: report.median(name, who, "seconds") for who in downloads.C.contenders}
    report.judge("C time against the limit", took["Autos"] / took["limit"], 1.15, is_at_least=False)
    above = report.median(name, "Autos", "MiB_above_rest")
    report.judge("C MiB of API and worker above their rest", above, 96, is_at_least=False)


async def _d(servers: Servers, report: Report, rounds: int) -> None:
    await submits.measure(servers, report, rounds=rounds)
    waits_ms = report.median(submits.START, "Autos at rest", "p50_ms")
    report.judge("D ms from a submission to its start, p50", waits_ms, 20, is_at_least=False)
    pace = {who: report.median(submits.RATE, who, "submissions__s") for who in ("Autos", "bare insert")}
    report.judge("D submissions/s against a bare insert", pace["Autos"] / pace["bare insert"], 0.7)


async def _e(servers: Servers, report: Report, rounds: int) -> None:
    await polls.measure(servers, report, rounds=rounds)
    for one, other, goal in ((polls.AUTOS, polls.REPLACED, 5), (polls.AUTOS_304, polls.STATIC, 0.7)):
        pace = [report.median(polls.WORKLOAD, who, polls.PER_S) for who in (one, other)]
        report.judge(f"E requests/s: {one} against {other}", pace[0] / pace[1], goal)


async def _f(servers: Servers, report: Report, rounds: int) -> None:
    await webhooks.measure(servers, report, rounds=rounds)
    cost = "webhooks_per_CPU_second"
    autos, bare = (report.median(webhooks.WORKLOAD, who, cost) for who in (webhooks.ALONE, webhooks.BARE))
    report.judge("F webhooks per CPU second against a bare loop", autos / bare, 0.6)
    took = [
        report.median(webhooks.WORKLOAD, who, "seconds") for who in (webhooks.WITH_HANGING, webhooks.ALONE)
    ]
    report.judge("F time of the healthy with a third that hang", took[0] / took[1], 1.15, is_at_least=False)


async def _g(servers: Servers, report: Report, rounds: int) -> None:
    await growth.measure(servers, report, rounds=rounds)
    one, two = (report.median(growth.WORKERS, growth.with_workers(count), "jobs__s") for count in (1, 2))
    report.judge("G jobs/s of two workers against one", two / one, 1.8)
    short, long = (report.median(growth.PAST, growth.after(jobs), "jobs__s") for jobs in (1_000, 1_000_000))
    report.judge("G jobs/s after 1,000,000 jobs against 1,000", long / short, 0.9)


async def _h(servers: Servers, report: Report, rounds: int) -> None:
    await downloads.measure(servers, report, downloads.H, rounds=rounds)


_WORKLOADS: dict[str, Measure] = {"A": _a, "B": _b, "C": _c, "D": _d, "E": _e, "F": _f, "G": _g, "H": _h}


async def main(letters: list[str], rounds: int) -> None:
    """Measure and print."""
    report = Report()
    async with open_servers() as servers:
        for letter in letters:
            await _WORKLOADS[letter](servers, report, rounds)
    print("\n".join(report.lines()))
    print(f"\nwritten to {report.write()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    # The empty list as a choice, because argparse holds it against `choices`, too, when none is named.
    parser.add_argument(
        "letters",
        nargs="*",
        choices=[*_WORKLOADS, []],
        metavar="LETTER",
        help="A to H; all when none is named",
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.letters or [*_WORKLOADS], arguments.rounds))
