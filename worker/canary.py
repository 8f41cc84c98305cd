"""The canary's keeper: begins it when it is due, and notes how it ended; each worker looks."""

import logging

from service.core import canary, submission
from service.core.canary import Begun, Outcome
from service.core.crash_points import crash_point
from service.core.db import Connection
from service.core.errors import DatabaseUnavailableError, StorageUnavailableError
from service.core.key_ring import KeyRing
from worker.context import Context, wait_for

_LOOK_EVERY_S = 5.0

log = logging.getLogger(__name__)


class Canary:
    """Looks every few seconds, over one process.

    Args:
        number: its 20 digits.
    """

    def __init__(self, context: Context, number: str) -> None:
        self._context = context
        self._number = number
        self._ring = KeyRing(context.settings.key_ring)

    async def run(self) -> None:
        """Look until the worker stops; a look that fails is logged and the next one tried."""
        while not self._context.stopping.is_set():
            try:
                await self.look()
            except DatabaseUnavailableError as error:
                log.warning("canary: %s", error)
            except Exception:
                # A defect here must not end the worker, which has better things to do.
                log.exception("canary")
            await wait_for(self._context.stopping, _LOOK_EVERY_S)

    async def look(self) -> None:
        """Note its end if it has come, and begin the next one if it is due."""
        ended, begun = await self._context.db.in_transaction(self._note_and_begin)
        if ended is not None:
            _say(ended)
        if begun is not None:
            crash_point("canary.begun")
            await self._follow_up(begun)

    async def _note_and_begin(self, conn: Connection) -> tuple[Outcome | None, Begun | None]:
        ended = await canary.note_end(conn, self._number)
        return ended, await canary.begin(conn, self._number, self._ring, self._context.settings)

    async def _follow_up(self, begun: Begun) -> None:
        if begun.given_up:
            log.error("canary: it has not ended: %s", begun.given_up)
        job = begun.submission.job
        if begun.submission.outcome is submission.Outcome.CREATED:
            await self._context.queue.ring_jobs([(job.id, job.fence)])
        if begun.object_keys:
            try:
                await self._context.storage.delete_many(begun.object_keys)
            except StorageUnavailableError as error:
                log.warning("canary: what it stored before is left to the janitor: %s", error)


def _say(ended: Outcome) -> None:
    """Tell how the last one ended: badly if its failure is the younger one."""
    if ended.failed_at and (ended.succeeded_at is None or ended.failed_at > ended.succeeded_at):
        log.error("canary: it was not complete: %s", ended.failure)
    else:
        log.info("canary: complete after %.1f s", ended.took_s)
