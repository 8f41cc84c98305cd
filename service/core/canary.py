"""The canary: one process that is fetched now and then, as for any client, to see whether all of Autos works.

Its row says how it went. Whichever worker looks first begins it, or notes its end.
"""

from dataclasses import dataclass
from datetime import datetime

from service.core import chores, clients, documents, jobs, processes, submission, subscriptions
from service.core.db import Connection
from service.core.key_ring import KeyRing
from service.core.settings import Settings
from service.core.submission import Submission
from service.core.wishes import Wish

CLIENT = "autos-canary"
"""The client for which it is fetched; it has no key."""

TIMED_OUT = "timed_out"
"""The failure of one that had not ended when the next was due, and of which nothing else is known."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went, as far as it is known.

    Attributes:
        took_s: of the last that ended, from its submission on.
        failure: of the last that was not complete: its job's `error_code` or final status, or what its job
            waited for when the next was due.
    """

    succeeded_at: datetime | None = None
    took_s: float | None = None
    failed_at: datetime | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """What is left to do after the commit: ring, and remove the objects that the last one stored.

    Attributes:
        given_up: the failure of the last one, when it had not ended by now.
    """

    submission: Submission
    object_keys: list[str]
    given_up: str | None


async def begin(conn: Connection, number: str, ring: KeyRing, settings: Settings) -> Begun | None:
    """Submit the process when it is due; None when it is not. One that has not ended by now has failed.

    Its documents are forgotten before, so that all of them are fetched and stored again; not if another
    client asked for it too: then the portal is asked for its list, and for documents that are new in it.
    """
    if not await chores.claim(conn, "canary", again_s=settings.canary_interval_s):
        return None
    client, _ = await clients.ensure(conn, ring, CLIENT)
    await note_end(conn, number)
    given_up = await _give_up(conn, number)
    # Whoever asks for the process meanwhile waits here, and then joins.
    await processes.lock(conn, {number})
    is_ours = not await subscriptions.is_anyone_else(conn, number, client.id)
    is_idle = not await jobs.lock_active(conn, [number])
    object_keys = await documents.forget(conn, [number]) if is_ours and is_idle else []
    submitted = await submission.submit(conn, Wish(number, max_age_s=0), client.id, settings=settings)
    await conn.execute(
        """insert into canaries (process_number, job_id, submitted_at) values ($1, $2, now())
           on conflict (process_number) do update
           set job_id = excluded.job_id, submitted_at = excluded.submitted_at""",
        number,
        submitted.job.id,
    )
    return Begun(submitted, object_keys, given_up)


async def note_end(conn: Connection, number: str) -> Outcome | None:
    """Write how its job ended, once it has; None when there is nothing to write."""
    row = await conn.fetchrow(
        """update canaries c
           set job_id = null, took_s = greatest(0, extract(epoch from j.finished_at - c.submitted_at)),
               succeeded_at = case when j.status = 'completed' then j.finished_at else c.succeeded_at end,
               failed_at = case when j.status = 'completed' then c.failed_at else j.finished_at end,
               failure = case when j.status = 'completed' then c.failure
                              else coalesce(j.error_code, j.status::text) end
           from jobs j
           where c.process_number = $1 and j.id = c.job_id and j.finished_at is not null
           returning c.succeeded_at, c.took_s, c.failed_at, c.failure""",
        number,
    )
    return None if row is None else Outcome(*row)


async def forget(conn: Connection, number: str) -> None:
    """Forget how it went with a process."""
    await conn.execute("delete from canaries where process_number = $1", number)


async def forget_old(conn: Connection, *, before: datetime) -> None:
    """Forget processes that were last begun before: others have been chosen since, or none."""
    await conn.execute("delete from canaries where submitted_at < $1", before)


async def outcome(conn: Connection, number: str) -> Outcome:
    """Return how it went with this process."""
    row = await conn.fetchrow(
        "select succeeded_at, took_s, failed_at, failure from canaries where process_number = $1", number
    )
    return Outcome() if row is None else Outcome(*row)


async def _give_up(conn: Connection, number: str) -> str | None:
    failure: str | None = await conn.fetchval(
        """update canaries c
           set job_id = null, failed_at = now(),
               failure = coalesce((select waiting_reason from jobs j where j.id = c.job_id), $2)
           where process_number = $1 and job_id is not null returning failure""",
        number,
        TIMED_OUT,
    )
    return failure
