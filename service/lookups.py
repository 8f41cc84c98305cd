"""What every poll asks of the database, gathered: a hundred polls at once are answered by two queries."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from service.core import batches, clients, documents, polled_jobs, subscriptions
from service.core.batches import Batch
from service.core.clients import Client
from service.core.db import Connection, Database
from service.core.documents import Document
from service.core.errors import NotFoundError
from service.core.gather import Gatherer, K, V
from service.core.polled_jobs import PolledJob
from service.core.subscriptions import WebhookState

# Each is a query of its own.
_MOST_BATCHES = 20
# A list can have thousands of documents.
_MOST_LISTS = 10


class Lookups:
    """Who calls, which job he asks for, and what of it is shown; always as the database has it now."""

    def __init__(self, db: Database) -> None:
        self._clients = Gatherer(_lent(db, clients.authenticate_many))
        self._jobs = Gatherer(_lent(db, polled_jobs.find))
        self._latest = Gatherer(_lent(db, polled_jobs.find_latest))
        self._batches = Gatherer(_lent(db, batches.find_for_clients), most=_MOST_BATCHES)
        self._documents = Gatherer(_lent(db, documents.find_of_jobs), most=_MOST_LISTS)
        self._webhooks = Gatherer(_lent(db, subscriptions.find_webhook_states))

    async def client(self, key_sha256: bytes) -> Client | None:
        """Return the client of a live key."""
        return await self._clients.ask(key_sha256)

    async def job(self, job_id: UUID, client_id: UUID) -> PolledJob:
        """Return a job that this client subscribed to.

        Raises:
            NotFoundError: no such job, or somebody else's.
        """
        return _found(await self._jobs.ask((job_id, client_id)))

    async def latest_job(self, number: str, client_id: UUID) -> PolledJob:
        """Return the newest job of the process that this client subscribed to.

        Raises:
            NotFoundError: this client never asked for the process.
        """
        return _found(await self._latest.ask((number, client_id)))

    async def batch(self, batch_id: UUID, client_id: UUID) -> Batch:
        """Return a batch of this client.

        Raises:
            NotFoundError: no such batch, or somebody else's.
        """
        return _found(await self._batches.ask((batch_id, client_id)))

    async def documents(self, job_id: UUID) -> Sequence[Document]:
        """Return the documents that a job is to bring in, newest first; not to be changed."""
        return await self._documents.ask(job_id)

    async def webhook(self, job_id: UUID, client_id: UUID) -> WebhookState:
        """Return the state of the webhook that a client asked for last."""
        return await self._webhooks.ask((job_id, client_id))


def _lent(
    db: Database, query: Callable[[Connection, Sequence[K]], Awaitable[Mapping[K, V]]]
) -> Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]:
    async def find(keys: Sequence[K]) -> Mapping[K, V]:
        async with db.connection() as conn:
            return await query(conn, keys)

    return find


def _found(one: V | None) -> V:
    if one is None:
        raise NotFoundError("no such id")
    return one
