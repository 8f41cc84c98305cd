"""What every poll asks of the database, gathered: a hundred polls at once are answered by two queries."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from service.core import clients, jobs
from service.core.clients import Client
from service.core.db import Connection, Database
from service.core.errors import NotFoundError
from service.core.gather import Gatherer, K, V
from service.core.jobs import Job


class Lookups:
    """Who calls, and which job he asks for; always as the database has it now."""

    def __init__(self, db: Database) -> None:
        self._clients = Gatherer(_lent(db, clients.authenticate_many))
        self._jobs = Gatherer(_lent(db, jobs.find_for_clients))
        self._latest = Gatherer(_lent(db, jobs.find_latest_for_clients))

    async def client(self, key_sha256: bytes) -> Client | None:
        """Return the client of a live key."""
        return await self._clients.ask(key_sha256)

    async def job(self, job_id: UUID, client_id: UUID) -> Job:
        """Return a job that this client subscribed to.

        Raises:
            NotFoundError: no such job, or somebody else's.
        """
        return _found(await self._jobs.ask((job_id, client_id)))

    async def latest_job(self, number: str, client_id: UUID) -> Job:
        """Return the newest job of the process that this client subscribed to.

        Raises:
            NotFoundError: this client never asked for the process.
        """
        return _found(await self._latest.ask((number, client_id)))


def _lent(
    db: Database, query: Callable[[Connection, Sequence[K]], Awaitable[Mapping[K, V]]]
) -> Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]:
    async def find(keys: Sequence[K]) -> Mapping[K, V]:
        async with db.connection() as conn:
            return await query(conn, keys)

    return find


def _found(job: Job | None) -> Job:
    if job is None:
        raise NotFoundError("no such job")
    return job
