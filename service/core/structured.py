"""Structured concurrency: two shapes that asyncio leaves to its users."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

T = TypeVar("T")

log = logging.getLogger(__name__)


@asynccontextmanager
async def one_error_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group of which the first error comes out as itself."""
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    cancels = task.cancelling()
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        error = errors.exceptions[0]
    else:
        return
    # A group that fails while it is cancelled tells of the failure only; who cancelled must hear of that.
    raise asyncio.CancelledError if task.cancelling() > cancels else error


async def finish(work: Coroutine[Any, Any, T], *, grace_s: float) -> T:
    """Run to the end even when cancelled on the way, however often, but then no longer than `grace_s` more.

    Raises:
        CancelledError: we were cancelled; raised when the work has ended.
    """
    task = asyncio.create_task(work)
    cancel: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            if cancel is None:
                asyncio.get_running_loop().call_later(grace_s, task.cancel)
            cancel = error
    if cancel is None:
        return task.result()
    if not task.cancelled() and task.exception() is not None:
        log.info("cancelled, and failed as well: %s", task.exception())
    raise cancel
