"""The end of a fault run: everything is waited for, cleaned up and checked."""

import asyncio
from datetime import timedelta
from uuid import UUID

from service.core.db import Connection, Database, open_database
from service.core.settings import Settings
from tests.faults.checker import Violation, check
from tests.faults.evidence import Evidence
from tests.rings import secret_of
from worker.context import open_context
from worker.janitor import Janitor

_CHECK_TIMEOUT_S = 600.0


async def until_quiet(db: Database, *, timeout_s: float) -> tuple[int, int]:
    """Wait until every job is final and every delivery has ended; return how many are not."""
    left = (-1, -1)
    try:
        async with asyncio.timeout(timeout_s):
            while left != (0, 0):
                async with db.connection() as conn:
                    left = await _unfinished(conn)
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    return left


async def _unfinished(conn: Connection) -> tuple[int, int]:
    jobs: int = await conn.fetchval("select count(*) from jobs where not job_status_is_final(status)")
    deliveries: int = await conn.fetchval("select count(*) from deliveries where status = 'pending'")
    return jobs, deliveries


async def settle_and_check(settings: Settings, evidence: Evidence, *, timeout_s: float) -> list[Violation]:
    """Wait for quiet, let the janitor clean without regard to age, and check every invariant.

    Args:
        settings: that lead to the backends without any fault between.
    """
    async with open_database(settings, patience_s=_CHECK_TIMEOUT_S) as db:
        jobs, deliveries = await until_quiet(db, timeout_s=timeout_s)
        if jobs or deliveries:
            return [Violation("everything ends", f"{jobs} jobs, {deliveries} deliveries after {timeout_s} s")]
        async with open_context(settings) as context:
            await Janitor(context, min_age=timedelta(0)).clean()
        async with db.connection() as conn:
            secrets: dict[UUID, bytes] = {
                row["id"]: await secret_of(conn, row["id"])
                for row in await conn.fetch("select id from clients")
            }
            return await check(
                evidence,
                conn=conn,
                storage_settings=settings,
                signing_secrets=secrets,
                schedule_rounds=len(settings.webhook_retry_delays_s),
            )
