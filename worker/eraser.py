"""The eraser: removes the objects of erased processes, until nothing is left and nothing can come any more.

Whoever looks first does it. A worker that dies leaves the order in the row, and another takes it up.
"""

import logging
from collections.abc import Sequence

from service.core import documents, erasures, job_upkeep, object_keys
from service.core.crash_points import crash_point
from service.core.erasures import Claimed
from service.core.errors import DatabaseUnavailableError, StorageUnavailableError
from worker.context import Context, wait_for

log = logging.getLogger(__name__)


class Eraser:
    """Looks every `sweep_interval_s`, over one process."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def run(self) -> None:
        """Look until the worker stops; a look that fails is logged, and taken up again a minute later."""
        while not self._context.stopping.is_set():
            try:
                await self.look()
            except (DatabaseUnavailableError, StorageUnavailableError) as error:
                log.warning("eraser: %s", error)
            except Exception:
                # A defect here must not end the worker, which has better things to do.
                log.exception("eraser")
            await wait_for(self._context.stopping, self._context.settings.sweep_interval_s)

    async def look(self) -> None:
        """Remove what is left of one erasure, if any is due, and note what that came to."""
        async with self._context.db.connection() as conn:
            claimed = await erasures.claim(conn)
        if claimed is None:
            return
        removed = await self._remove(claimed)
        async with self._context.db.connection() as conn:
            is_finished = await erasures.note_look(conn, claimed, is_clean=removed == 0)
        if removed or is_finished:
            state = "finished" if is_finished else "under way"
            log.info("erasure %s is %s: %d objects removed", claimed.id, state, removed)

    async def _remove(self, claimed: Claimed) -> int:
        """Remove, once, what is listed of the process and belongs to nobody; return how much that was."""
        storage, prefix, removed = self._context.storage, object_keys.prefix(claimed.number), 0
        async for versions in storage.list_versions(prefix):
            left = await self._left_over([one.key for one in versions])
            if gone := [one for one in versions if one.key in left]:
                await storage.delete_versions(gone)
                crash_point("erasure.removed")
                removed += len(gone)
        async for uploads in storage.list_uploads(prefix):
            left = await self._left_over([one.key for one in uploads])
            for upload in uploads:
                if upload.key in left:
                    await storage.abort_upload(upload)
                    removed += 1
        return removed

    async def _left_over(self, keys: Sequence[str]) -> set[str]:
        """Return the keys that no document names and whose job is gone.

        Who has asked for the process since, or shares it, has objects here too: some that no row knows yet.
        They were listed before this reads the rows: a job that has stored something is there by now.
        """
        writers = {key: object_keys.job_of(key) for key in keys}
        async with self._context.db.connection() as conn:
            living = await job_upkeep.list_known(conn, {job_id for job_id in writers.values() if job_id})
            known = await documents.list_known_keys(conn, keys)
        return {key for key, job_id in writers.items() if job_id not in living and key not in known}
