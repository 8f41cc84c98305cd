"""API and worker as the sandbox's children: one that ends by itself is started again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from service.sandbox.children import Program, describe_end, open_child

PAUSE_S = 1.0


@asynccontextmanager
async def keep_running(programs: Sequence[Program]) -> AsyncIterator[None]:
    """Run the programs during the block, each started again when it ends; then end all of them together."""
    tasks = [asyncio.create_task(_run_again_and_again(program)) for program in programs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_again_and_again(program: Program) -> None:
    while True:
        async with open_child(program) as child:
            status = await child.wait()
        print(f"sandbox: the {program.name} ended ({describe_end(status)}), starting it again", flush=True)
        await asyncio.sleep(PAUSE_S)
