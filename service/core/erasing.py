"""The erasure of a process: its rows at once, in one transaction; its objects by the workers, afterwards.

For one client all that is its own goes, and the process itself only if no other client has asked for it.
Whether one has it is not told: the answer, and when the erasure is finished, are the same either way.
"""

from dataclasses import dataclass, field
from uuid import UUID, uuid4

from service.core import (
    audit,
    batches,
    canary,
    cnj,
    deliveries,
    documents,
    erasures,
    events,
    idempotency,
    job_upkeep,
    processes,
    settlement,
    subscriptions,
    telling,
)
from service.core.db import Connection
from service.core.erasures import Counts, Erasure
from service.core.errors import NotFoundError
from service.core.jobs import Job
from service.core.settlement import CANCELLED, Settled


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be erased, and at whose wish.

    Attributes:
        number: 20 digits; `proof` is `erasures.prove` of it.
        of_everyone: what all clients have of the process, in place of what this one has.
        lease_s: of the workers.
    """

    number: str
    proof: str
    client_id: UUID
    key_id: str
    of_everyone: bool
    lease_s: float
    erasure_id: UUID = field(default_factory=uuid4)

    @property
    def whose(self) -> UUID | None:
        """The client whose rows go; None for those of all."""
        return None if self.of_everyone else self.client_id


@dataclass(frozen=True, slots=True)
class Erased:
    """The receipt, and what is left to do after the commit: count the jobs, ring for the destinations."""

    erasure: Erasure
    settled: list[Settled] = field(default_factory=list)
    destinations: list[UUID] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Held:
    """The jobs of a process, locked.

    Attributes:
        theirs: those to which the ones whose rows go have subscribed.
        going: those that nobody else has: they go, the others stay without them.
        is_last: whether no job is left then.
    """

    theirs: list[Job]
    going: list[Job]
    is_last: bool

    @property
    def ids(self) -> list[UUID]:
        """Those of `theirs`."""
        return [job.id for job in self.theirs]

    @property
    def going_ids(self) -> list[UUID]:
        """Those of `going`."""
        return [job.id for job in self.going]

    @property
    def staying(self) -> list[Job]:
        """Those of `theirs` that others need."""
        going = set(self.going_ids)
        return [job for job in self.theirs if job.id not in going]


async def erase(conn: Connection, order: Order) -> Erased:
    """Delete the rows and write the order to remove the objects, inside the caller's transaction.

    A running job that nobody else waits for is cancelled: its worker can write nothing any more. When there
    is nothing to erase but an erasure is under way, that one is returned: the call was repeated.

    Raises:
        NotFoundError: the client never asked for the process, or nothing of it is left.
    """
    # Who asks for the process meanwhile waits, and then finds it new.
    await processes.lock_known(conn, {order.number})
    held = await _hold(conn, order)
    # Before anything goes: what is counted is what the client saw.
    known = await documents.count_of_process(conn, order.number) if held.theirs else 0
    told = await deliveries.count_of_jobs(conn, held.ids, order.whose)
    leased_until = await job_upkeep.leased_until(conn, order.number, lease_s=order.lease_s)
    spellings = cnj.spellings(order.number)
    batch_ids = await batches.lock_naming(conn, held.ids, spellings, order.whose)
    if not held.theirs and not batch_ids:
        return Erased(await _pending(conn, order))
    ended = await _count_down(conn, order, held)
    items = await batches.erase_items(conn, batch_ids, held.ids, spellings)
    destinations = await telling.tell_batches(conn, ended)
    settled = await _cancel(conn, held)
    for one in settled:
        destinations += [*one.destinations, *await _tell(conn, order, one.job)]
    await deliveries.forget(conn, job_ids=held.ids, client_id=order.whose)
    await subscriptions.forget(conn, held.ids, order.whose)
    kept = await idempotency.erase(conn, [*held.ids, *batch_ids], order.whose)
    await _forget_process(conn, order, held)
    erasure = await erasures.create(
        conn,
        order.erasure_id,
        order.number,
        order.client_id,
        of_everyone=order.of_everyone,
        proof=order.proof,
        counts=Counts(len(held.theirs), known, told, items, kept),
        leased_until=leased_until,
    )
    await audit.note(
        conn,
        order.client_id,
        "process.erased",
        erasure.id,
        key_id=order.key_id,
        details={"of_everyone": order.of_everyone},
    )
    return Erased(erasure, settled, destinations)


async def _hold(conn: Connection, order: Order) -> _Held:
    found = await job_upkeep.lock_of_process(conn, order.number)
    if order.of_everyone:
        return _Held(found, found, is_last=True)
    clients = await subscriptions.find_clients(conn, [job.id for job in found])
    theirs = [job for job in found if order.client_id in clients[job.id]]
    going = [job for job in found if clients[job.id] <= {order.client_id}] if theirs else []
    return _Held(theirs, going, is_last=len(going) == len(found))


async def _count_down(conn: Connection, order: Order, held: _Held) -> list[UUID]:
    """Let batches wait no more for what runs; return those that have ended with that.

    Before the jobs are cancelled, and not by it: what a batch says of its end is then the same whether a job
    goes, or goes on for others. Nobody who waits for us here holds a lock that we still want.
    """
    active = [job for job in held.theirs if not job.status.is_final]
    return [batch_id for job in active for batch_id in await batches.count_down(conn, job.id, order.whose)]


async def _cancel(conn: Connection, held: _Held) -> list[Settled]:
    active = [job for job in held.going if not job.status.is_final]
    return [await settlement.settle(conn, job, error=CANCELLED, is_cancelled=True) for job in active]


async def _tell(conn: Connection, order: Order, job: Job) -> list[UUID]:
    """Tell the others who wait for a job, if there are any; return the destinations to ring for."""
    event = events.erased_event(job.id, order.erasure_id, job.updated_at)
    return await deliveries.create_for_erased(
        conn, job.id, event=event["type"], payload=event, but=order.client_id
    )


async def _forget_process(conn: Connection, order: Order, held: _Held) -> None:
    """Delete the jobs that nobody else has, and with the last of them the process."""
    await job_upkeep.wake_waiting(conn, held.ids)
    await job_upkeep.give_away(conn, [job.id for job in held.staying], order.client_id)
    await job_upkeep.forget(conn, held.going_ids)
    if held.is_last:
        await documents.forget(conn, [order.number])
        await processes.forget(conn, [order.number])
        await canary.forget(conn, order.number)


async def _pending(conn: Connection, order: Order) -> Erasure:
    pending = await erasures.find_pending(conn, order.number, order.client_id, of_everyone=order.of_everyone)
    if pending is None:
        raise NotFoundError("this process was never asked for")
    return pending
