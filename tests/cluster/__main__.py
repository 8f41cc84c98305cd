"""`make cluster`: Autos on six hosts of one machine, each a network namespace (Linux, root, iproute2).

Two hosts have an API, three a worker, one PostgreSQL, Redis, S3, the stand-in portal and the receivers, which
is where this program runs itself.
"""

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.cluster.growth import Throughput, measure
from tests.cluster.hosts import BACKENDS, Host, enter, open_backends_host, open_host
from tests.cluster.partition import Partition, cut_off
from tests.faults.checker import Violation

_APIS, _WORKERS = 2, 3
_INSIDE = "--on-the-backends-host"


def main(arguments: Sequence[str]) -> int:
    """Make the hosts, run, print the figures; 1 when anything was lost or harmed."""
    if arguments[:1] == [_INSIDE]:
        return _run(arguments[1])
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("ip"):
        print("make cluster needs Linux, root (for network namespaces) and iproute2", file=sys.stderr)
        return 2
    prefix = f"autos{os.getpid()}"
    with open_backends_host(prefix):
        command = (*enter(prefix, BACKENDS), sys.executable, "-m", "tests.cluster", _INSIDE, prefix)
        return subprocess.run(command, check=False).returncode


def _run(prefix: str) -> int:
    folder = Path(tempfile.mkdtemp(prefix="autos-cluster-"))
    with _hosts(prefix) as (apis, workers):
        violations = asyncio.run(_measure(folder, apis, workers))
    for one in violations:
        print(f"VIOLATION {one.invariant}: {one.detail}")
    print(f"violations: {len(violations)}")
    if violations:
        print(f"logs: {folder}")
    else:
        shutil.rmtree(folder)
    return int(bool(violations))


@contextmanager
def _hosts(prefix: str) -> Iterator[tuple[list[Host], list[Host]]]:
    with ExitStack() as stack:
        names = [f"api{n}" for n in range(_APIS)] + [f"worker{n}" for n in range(_WORKERS)]
        hosts = [stack.enter_context(open_host(prefix, name, n)) for n, name in enumerate(names, start=2)]
        yield hosts[:_APIS], hosts[_APIS:]


async def _measure(folder: Path, apis: Sequence[Host], workers: Sequence[Host]) -> list[Violation]:
    figures, violations = list[Throughput](), list[Violation]()
    for count in range(1, len(workers) + 1):
        figure, found = await measure(folder / f"{count}", apis, workers[:count])
        figures.append(figure)
        violations += found
        ratio = figure.documents_per_s / figures[0].documents_per_s
        print(
            f"worker hosts: {count}; {figure.documents} documents in {figure.seconds:.1f} s, "
            f"{figure.documents_per_s:.1f} a second: {ratio:.2f} times one host's",
            flush=True,
        )
    outcome = await cut_off(folder / "partition", apis, workers)
    print("\n".join(_lines(outcome)))
    return violations + outcome.violations


def _lines(outcome: Partition) -> list[str]:
    times = outcome.takeover_s
    ended = ", ".join(f"{count} {status}" for status, count in sorted(outcome.jobs.items()))
    return [
        f"a worker's host cut off amid {outcome.orphaned} jobs, lease {outcome.lease_s:g} s: taken over "
        f"by others after {min(times):.1f} to {max(times):.1f} s (median {statistics.median(times):.1f})",
        f"it came back and took jobs again: {'yes' if outcome.came_back else 'no'}",
        f"an API's host cut off: {outcome.unanswered} calls to the other one unanswered",
        f"jobs at the end: {ended}",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
