"""`python -m tests.bench.baselines.bare_webhooks`: a loop of POSTs under Autos' guard, and nothing around it.

Says "ready"; then for each line on stdin, a count and the beginning of a URL, sends so many requests to URLs
that begin so, and says "done". No database, no signature, no second try.
"""

import asyncio
import os
import sys
from collections.abc import Iterator

import uvloop

from service.core.outbound import Outbound, open_outbound
from service.core.settings import Settings

_BODY = b'{"type":"webhook.test"}'
_HEADERS = {"content-type": "application/json"}


async def main() -> None:
    """Serve stdin until it ends."""
    async with open_outbound(Settings()) as outbound:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            count, beginning = line.split()
            left = iter(range(int(count)))
            async with asyncio.TaskGroup() as group:
                for _ in range(int(os.environ["CONCURRENCY"])):
                    group.create_task(_send(outbound, beginning, left))
            print("done", flush=True)


async def _send(outbound: Outbound, beginning: str, left: Iterator[int]) -> None:
    for number in left:
        reply = await outbound.post(f"{beginning}/{number % 30}", body=_BODY, headers=_HEADERS, timeout_s=15)
        if reply.status != 204:
            raise RuntimeError(f"the receiver answered {reply.status}")


if __name__ == "__main__":
    uvloop.run(main())
