"""`python -m service.sandbox`, or `make run`: the sandbox in the foreground, until Ctrl-C."""

import asyncio
import os
import signal
import sys

from service.sandbox.children import kill_all
from service.sandbox.plan import Plan, read_plan
from service.sandbox.run import run
from service.sandbox.state import SandboxError


def main() -> int:
    """Run the sandbox; return the process's exit status."""
    try:
        asyncio.run(_until_signal(read_plan(os.environ)))
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    return 0


async def _until_signal(plan: Plan) -> None:
    """Run until a signal asks for the end; a second one does not wait for anybody."""
    running = asyncio.create_task(run(plan))

    def end() -> None:
        if running.cancelling():
            kill_all()
            os._exit(1)
        print("\nsandbox: stopping (again to kill)", flush=True)
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        await running
    except asyncio.CancelledError:
        print("sandbox: stopped", flush=True)


if __name__ == "__main__":
    sys.exit(main())
