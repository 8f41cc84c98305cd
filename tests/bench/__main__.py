"""`python -m tests.bench [LETTER…] [--rounds N]`: the figures of the README, measured side by side.

Prints a table of medians with their spread and the goals, and writes both as JSON into `results/`.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from tests.bench import downloads
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


async def _h(servers: Servers, report: Report, rounds: int) -> None:
    await downloads.measure(servers, report, downloads.H, rounds=rounds)


_WORKLOADS: dict[str, Measure] = {"A": _a, "B": _b, "C": _c, "H": _h}


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
    parser.add_argument("letters", nargs="*", choices=[*_WORKLOADS], help="all of them when none is named")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.letters or [*_WORKLOADS], arguments.rounds))
