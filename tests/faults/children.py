"""Real worker processes: started, watched, killed."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from service.core.settings import Settings

ROOT = Path(__file__).parents[2]


def environment(settings: Settings) -> dict[str, str]:
    """Write settings as the environment variables of a child."""
    variables = {"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if isinstance(value, tuple):
            value = ",".join(str(part) for part in value)
        if value is not None:
            alias = field.validation_alias
            variables[alias if isinstance(alias, str) else f"AUTOS_{name.upper()}"] = str(value)
    return variables


@asynccontextmanager
async def open_worker_process(settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m worker` until the block ends; it is stopped by SIGTERM, in the end by SIGKILL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", env=environment(settings), cwd=ROOT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def run_to_end(settings: Settings, program: str, *, timeout_s: float = 30) -> tuple[int, str]:
    """Run `python -m` a program that ends by itself; return its exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        program,
        env=environment(settings),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(timeout_s):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return await process.wait(), said.decode()


def peak_memory_bytes(process: asyncio.subprocess.Process) -> int:
    """Return the most memory the living process ever had resident (Linux: VmHWM)."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LookupError("no VmHWM in /proc")
