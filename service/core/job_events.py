"""What befell a job between its first claim and its end, where it went otherwise than it should: for people.

A job that is claimed once and ends has no event. They are written in the very statements that move the job,
from their answer, so that neither is without the other.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from service.core.db import Connection

RUNS_KEPT = 100
"""Of so many runs of a job, the last ones, events are kept; each has two at most."""


class Move(StrEnum):
    """What happened to a job.

    A run that ends in a wait costs none of the retries; one that was handed back goes on at once elsewhere.
    """

    CLAIMED = "claimed"
    WAITS = "waits"
    RETRIED = "retried"
    HANDED_BACK = "handed_back"
    LEASE_LOST = "lease_lost"


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One row.

    Attributes:
        run: counted from 1: the fence of its claim.
        reason: the code of why it waits or is tried again.
        next_at: when the next run may begin; None of what ends no run, and of a lost lease.
    """

    run: int
    what: Move
    at: datetime
    reason: str | None
    next_at: datetime | None


# Parts of a statement, after one that answers with rows of jobs. Nobody's first claim is worth a row.
CLAIMED = f"""insert into job_events (job_id, run, what)
    select id, fence, '{Move.CLAIMED}' from claimed where fence > 1"""
"""Notes the later claims among the rows `claimed`."""


def ended(what: str) -> str:
    """Return what notes the end of a run, and lets the oldest go, for the row `given_up`.

    Args:
        what: SQL of a `Move`, or of null when it is noted already.
    """
    return f"""noted as (
                insert into job_events (job_id, run, what, reason, next_at)
                select id, fence, what, waiting_reason, case when status = 'pending' then next_attempt_at end
                from given_up cross join (select {what} as what) move where what is not null
            ), forgotten as (
                delete from job_events using given_up
                where job_id = given_up.id and run <= given_up.fence - {RUNS_KEPT}
            )"""


async def list_of_job(conn: Connection, job_id: UUID) -> list[JobEvent]:
    """Return the events of a job in order."""
    rows = await conn.fetch(
        f"""select run, what, at, reason, next_at from job_events where job_id = $1
            order by run, what <> '{Move.CLAIMED}'""",
        job_id,
    )
    return [JobEvent(**{**row, "what": Move(row["what"])}) for row in rows]
