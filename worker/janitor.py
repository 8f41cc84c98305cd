"""The janitor: removes from S3 what no row knows or what is too secret, and tells the rows what S3 has lost.

What killed or abandoned runs leave behind is found here and nowhere else. Nothing younger than a day is
touched: by then no run that might still write its row can hold its lease.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from service.core import accesses, canary, chores, documents, idempotency, losses, retention
from service.core.crash_points import crash_point
from service.core.db import Connection, clock
from service.core.errors import DatabaseUnavailableError, StorageUnavailableError
from service.core.storage import MOST_AT_ONCE, Listed
from worker.context import Context, wait_for

PREFIX = "processes/"
_MIN_AGE = timedelta(days=1)
_LOOK_EVERY_S = 60.0
# Between two steps of forgetting: whoever works has the database for himself most of the time.
_BREATH_S = 0.05
_ACCESSES_AT_ONCE = 2000

log = logging.getLogger(__name__)


class Janitor:
    """One pass every `janitor_interval_s` over all workers.

    Args:
        min_age: of what may be removed; for tests only.
    """

    def __init__(self, context: Context, *, min_age: timedelta = _MIN_AGE) -> None:
        self._context = context
        self._min_age = min_age

    async def run(self) -> None:
        """Clean when it is due, until the worker stops; a pass that fails is tried again at the next."""
        while not self._context.stopping.is_set():
            try:
                if await self._is_due():
                    await self.clean()
            except (DatabaseUnavailableError, StorageUnavailableError) as error:
                log.warning("janitor: %s", error)
            except Exception:
                # A defect here must not end the worker, which has better things to do.
                log.exception("janitor")
            await wait_for(self._context.stopping, _LOOK_EVERY_S)

    async def _is_due(self) -> bool:
        async with self._context.db.connection() as conn:
            return await chores.claim(conn, "janitor", again_s=self._context.settings.janitor_interval_s)

    async def clean(self) -> None:
        """Forget what is old; remove objects without a row, mark rows without an object, abort uploads."""
        async with self._context.db.connection() as conn:
            await idempotency.forget_old(conn)
        if days := self._context.settings.retention_days:
            await self.forget_ended(before=await self._ago(timedelta(days=days)))
        if days := self._context.settings.audit_days:
            await self._step_by_step(partial(accesses.forget_old, days=days, limit=_ACCESSES_AT_ONCE))
        await self.remove_too_secret()
        old = await self._ago(self._min_age)
        removed, lost = 0, 0
        async for listed, known in self._compare():
            if known and not listed:
                log.error("janitor: S3 lists nothing for %d documents: is this the right bucket?", len(known))
                return
            removed += await self._remove_unknown(listed, known, before=old)
            lost += await self._mark_lost(listed, known)
        uploads = await self.abort_old_uploads()
        async with self._context.db.connection() as conn:
            await chores.mark_done(conn, "janitor")
        log.info("janitor: %d uploads aborted, %d objects removed, %d found missing", uploads, removed, lost)

    async def forget_ended(self, *, before: datetime) -> None:
        """Forget what ended before a time, a few rows at a time; a worker that stops leaves the rest."""
        after: tuple[datetime, UUID] | None = None

        async def forget_jobs(conn: Connection) -> bool:
            nonlocal after
            after = await retention.forget_jobs(conn, ended_before=before, after=after)
            return after is not None

        # Batches first: a job stays as long as one shows it.
        await self._step_by_step(partial(retention.forget_batches, ended_before=before))
        await self._step_by_step(forget_jobs)
        await self._step_by_step(partial(retention.forget_other_deliveries, ended_before=before))
        async with self._context.db.connection() as conn:
            await canary.forget_old(conn, before=before)

    async def _step_by_step(self, step: Callable[[Connection], Awaitable[int]]) -> None:
        """Take a step in one transaction after the other, until one has found nothing or the worker stops."""
        stopping = self._context.stopping
        while not stopping.is_set():
            found = await self._context.db.in_transaction(step)
            if not found:
                return
            await wait_for(stopping, _BREATH_S)

    async def remove_too_secret(self) -> None:
        """Let go what is more secret than this system may have: what a run left behind, or a lower ceiling.

        The rows last: they are what says which objects are still to be removed.
        """
        context, most = self._context, self._context.settings.max_secrecy
        while not context.stopping.is_set():
            async with context.db.connection() as conn:
                keys = await documents.list_too_secret(conn, most=most, limit=MOST_AT_ONCE)
            if not keys:
                return
            await context.storage.delete_many(keys)
            await context.db.in_transaction(partial(losses.mark_too_secret, object_keys=keys))
            log.warning("janitor: %d documents that are too secret were removed", len(keys))

    async def abort_old_uploads(self, prefix: str = PREFIX) -> int:
        """Abort what nobody completes any more; return how many there were."""
        aborted, old = 0, await self._ago(self._min_age)
        async for page in self._context.storage.list_uploads(prefix):
            for upload in page:
                if upload.initiated_at <= old:
                    await self._context.storage.abort_upload(upload)
                    aborted += 1
        return aborted

    async def _compare(self) -> AsyncIterator[tuple[list[Listed], set[str]]]:
        """Yield each page of objects with the keys that rows have in the same stretch.

        The rows are read after the page: a document stored in between is no loss.
        """
        after = PREFIX
        pages = self._context.storage.list_objects(PREFIX)
        page = await anext(pages, None)
        while page is not None:
            following = await anext(pages, None)
            until = page[-1].key if following is not None and page else None
            async with self._context.db.connection() as conn:
                known = await documents.list_object_keys(conn, after=after, until=until)
            yield page, set(known)
            after = until or after
            page = following

    async def _remove_unknown(self, listed: list[Listed], known: set[str], *, before: datetime) -> int:
        unknown = [one.key for one in listed if one.key not in known and one.modified_at <= before]
        if unknown:
            await self._context.storage.delete_many(unknown)
            crash_point("janitor.removed")
        return len(unknown)

    async def _mark_lost(self, listed: list[Listed], known: set[str]) -> int:
        lost = 0
        for key in sorted(known - {one.key for one in listed}):
            # Asked once more: it may have been stored after its page was listed.
            if await self._context.storage.exists(key):
                continue
            lost += await self._context.db.in_transaction(partial(losses.mark_missing, object_key=key))
        return lost

    async def _ago(self, age: timedelta) -> datetime:
        # Not by our own clock: one that is ahead would have all that there is forgotten.
        async with self._context.db.connection() as conn:
            return await clock(conn) - age
