"""`python -m tests.bench.load`: requests to a server on this machine, for as little CPU as can be.

It shares two cores with the server that it measures. So requests are prepared as bytes, a body is counted and
not kept, and nothing of an answer is read but its status and its length. HTTP/1.1, and no chunked answers.
"""

import asyncio
import itertools
import json
import math
import sys
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import uvloop

_ROOT = Path(__file__).parents[2]
_HOST = "127.0.0.1"
_MOST_HEAD_BYTES = 64 * 1024
_LENGTH = b"\r\ncontent-length:"
_TIMEOUT_S = 60.0
# For a process to start, beside the time that it may take.
_START_S = 20.0


class LoadError(Exception):
    """An answer that is none, or not all answers in time."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one load.

    Attributes:
        seconds: from the first request to the last answer; connections were open before.
        statuses: how many answers had each status.
        lost: requests whose connection ended before their answer; each was sent again.
        p50_ms: from a request to the last byte of its answer, the median.
        cpu_s: processor time of the process that sent the requests.
    """

    seconds: float
    statuses: Counter[int]
    lost: int
    p50_ms: float
    p99_ms: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Answers in a second."""
        return self.statuses.total() / self.seconds


def get(path: str, headers: Mapping[str, str]) -> bytes:
    """Prepare a GET."""
    return _request("GET", path, headers)


def post(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Prepare a POST, of JSON unless the headers say otherwise."""
    length = {"Content-Length": str(len(body))}
    return _request("POST", path, {"Content-Type": "application/json", **headers, **length}) + body


def _request(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {_HOST}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def drive(
    host: str,
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    count: int,
    timeout_s: float = _TIMEOUT_S,
) -> Load:
    """Send the requests in turn, one at a time on each connection, until `count` answers have come.

    Raises:
        LoadError: an answer that is malformed or chunked, or the time is over.
        OSError: nobody listens.
    """
    run, cpu_s = _Run(requests, count), time.process_time()
    parties = asyncio.Barrier(min(connections, count))

    async def call() -> _Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: _Connection(run), host, port))[1]

    try:
        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as busy:
            for _ in range(parties.parties):
                busy.create_task(_keep_busy(run, call, parties))
    except TimeoutError:
        raise LoadError(f"{run.answered} of {count} answers came within {timeout_s} s") from None
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return run.load(time.process_time() - cpu_s)


async def drive_apart(
    port: int, requests: Sequence[bytes], *, connections: int, count: int, timeout_s: float = _TIMEOUT_S
) -> Load:
    """Do the same to a port of this machine from a process of its own, under uvloop.

    Raises:
        LoadError: it failed, for the reason that it wrote to standard error.
    """
    order = {
        "port": port,
        "requests": [one.decode("latin-1") for one in requests],
        "connections": connections,
        "count": count,
        "timeout_s": timeout_s,
    }
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.load"), stdin=pipe, stdout=pipe, cwd=_ROOT
    )
    try:
        async with asyncio.timeout(timeout_s + _START_S):
            said, _ = await process.communicate(json.dumps(order).encode() + b"\n")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise LoadError(f"the load on port {port} ended with exit status {process.returncode}")
    answer = json.loads(said)
    statuses = Counter({int(status): seen for status, seen in answer.pop("statuses").items()})
    return Load(statuses=statuses, **answer)


class _Run:
    """What the connections of one load share."""

    def __init__(self, requests: Sequence[bytes], count: int) -> None:
        self.requests = itertools.cycle(requests)
        self.unsent = count
        self.answered = 0
        self.lost = 0
        self.statuses = Counter[bytes]()
        self.latencies_s = array("d", bytes(8 * count))
        self.begun_at = self.ended_at = 0.0

    def load(self, cpu_s: float) -> Load:
        """Sum up, when every answer has come."""
        sorted_s = sorted(self.latencies_s)
        return Load(
            seconds=self.ended_at - self.begun_at,
            statuses=Counter({int(status): seen for status, seen in self.statuses.items()}),
            lost=self.lost,
            p50_ms=_percentile(sorted_s, 50) * 1000,
            p99_ms=_percentile(sorted_s, 99) * 1000,
            cpu_s=cpu_s,
        )


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the smallest value that so many percent of all do not exceed."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


async def _keep_busy(
    run: _Run, call: Callable[[], Awaitable["_Connection"]], everybody: asyncio.Barrier
) -> None:
    """Ask down one connection, and down another one when that is lost, until nothing is left to ask."""
    connection = await call()
    try:
        await everybody.wait()
        run.begun_at = run.begun_at or time.perf_counter()
        while not await connection.work():
            run.lost += 1
            connection = await call()
    finally:
        connection.abort()


class _Connection(asyncio.Protocol):
    """Sends a request when the answer to the one before is whole."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._head = self._status = b""
        self._left_bytes = 0
        self._sent_at = 0.0

    async def work(self) -> bool:
        """Ask until nothing is left to ask; False when the connection ended before an answer.

        Raises:
            LoadError: an answer is malformed.
        """
        if not self._done.done():
            self._send(time.perf_counter())
        return await self._done

    def abort(self) -> None:
        """End it at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what requests are written to."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer: most often all of it."""
        if self._left_bytes:
            left_bytes = self._left_bytes - len(data)
        else:
            if self._head:
                data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                if len(data) > _MOST_HEAD_BYTES:
                    self._fail(LoadError("an answer whose headers do not end"))
                return
            self._head = b""
            try:
                # With the end of its last line.
                left_bytes = end + 4 + self._read_head(data[: end + 2].lower()) - len(data)
            except LoadError as error:
                self._fail(error)
                return
        self._left_bytes = left_bytes
        if not left_bytes:
            self._end_answer()
        elif left_bytes < 0:
            self._fail(LoadError("an answer with more than it said"))

    def connection_lost(self, _error: Exception | None) -> None:
        """End the work; what was asked has to be asked again."""
        if not self._done.done():
            self._run.unsent += self._sent_at > 0
            self._done.set_result(False)

    def _read_head(self, head: bytes) -> int:
        """Keep the status; return how many bytes the body has."""
        status = head[9:12]
        if not head.startswith(b"http/1.1 ") or not status.isdigit():
            raise LoadError(f"no answer of HTTP/1.1: {head[:100]!r}")
        self._status = status
        # These have none, whatever length they name: that of the answer which the caller has already.
        if status in (b"304", b"204"):
            return 0
        begin = head.find(_LENGTH) + len(_LENGTH)
        length = head[begin : head.find(b"\r", begin)].strip()
        if begin < len(_LENGTH) or not length.isdigit():
            raise LoadError(f"an answer that does not say how long it is: {head[:1000]!r}")
        return int(length)

    def _end_answer(self) -> None:
        run, now = self._run, time.perf_counter()
        run.statuses[self._status] += 1
        run.latencies_s[run.answered] = now - self._sent_at
        run.answered += 1
        run.ended_at = now
        self._send(now)

    def _send(self, now: float) -> None:
        run = self._run
        if run.unsent:
            run.unsent -= 1
            self._sent_at = now
            self._transport.write(next(run.requests))
        else:
            self._done.set_result(True)
            self._transport.close()

    def _fail(self, error: LoadError) -> None:
        self._done.set_exception(error)
        self._transport.abort()


def main() -> None:
    """Read an order, a line of JSON, from standard input; write what came of it to standard output."""
    order = json.loads(sys.stdin.readline())
    requests = [one.encode("latin-1") for one in order.pop("requests")]
    load = uvloop.run(drive(_HOST, order.pop("port"), requests, **order))
    print(json.dumps({**asdict(load), "statuses": dict(load.statuses)}))


if __name__ == "__main__":
    main()
