"""PostgreSQL: the pool, its time-outs, and which schema it has to hold."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import orjson
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from service.core import metrics
from service.core.errors import DatabaseConflictError, DatabaseUnavailableError, SchemaError
from service.core.settings import Settings
from service.core.telemetry import Calls

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection
    Pool = asyncpg.Pool

T = TypeVar("T")

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
_CONNECT_TIMEOUT_S = 2.0
# A busy machine is no reason not to start; later on, who asks for a connection waits no longer than above.
_START_TIMEOUT_S = 10.0
_COMMAND_TIMEOUT_S = 5.0
_ROWS_PER_READ = 1_000

SESSION_SETTINGS: Mapping[str, str] = {
    # Our statements touch few rows: compiling one takes far longer than any of them.
    "jit": "off",
    "statement_timeout": "5s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "15s",
}
"""What each connection of the pool begins with, as `show` has it; behind a pooler the role has to have it."""

# What undoes a transaction that did no wrong. Our lock order leaves hardly a chance for it.
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
# What says that the server is away or cannot serve now, as opposed to a statement that is wrong.
_UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that the server ended while it lay in the pool
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


def _reason_of(error: Exception) -> str | None:
    """Name what the database did; whatever else goes wrong in a block is no failure of its."""
    if isinstance(error, DatabaseConflictError):
        return "conflict"
    return "unavailable" if isinstance(error, DatabaseUnavailableError) else None


_BLOCKS = Calls(
    "database",
    requests=metrics.DATABASE_BLOCKS,
    failures=metrics.DATABASE_BLOCK_FAILURES,
    seconds=metrics.DATABASE_BLOCK_SECONDS,
    reason_of=_reason_of,
)


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Which schema a database holds: its version, and the oldest one whose code can still work on it."""

    version: int
    serves_from: int

    @property
    def serves_us(self) -> bool:
        """Whether this code can work on it: it is ours, or one of a later release that says so."""
        return self.serves_from <= SCHEMA_VERSION <= self.version


class Database:
    """The pool of one process. A connection is held for statements only, never across a network call."""

    def __init__(self, pool: Pool, *, patience_s: float) -> None:
        self._pool = pool
        self._patience_s = patience_s

    @asynccontextmanager
    async def connection(self, *, counted_as: str = "statements") -> AsyncIterator[Connection]:
        """Lend a connection.

        Args:
            counted_as: the operation that it is in metrics and traces.

        Raises:
            DatabaseUnavailableError: no connection within two seconds, the server went away, or the whole
                block took longer than this process has patience for.
            DatabaseConflictError: a deadlock or a serialization failure.
        """
        with _BLOCKS.of(counted_as):
            try:
                async with asyncio.timeout(self._patience_s), self._lent() as conn:
                    yield conn
            except _CONFLICTS as error:
                raise DatabaseConflictError(f"{type(error).__name__}: the transaction was undone") from error
            except _UNAVAILABLE as error:
                raise DatabaseUnavailableError(
                    f"{type(error).__name__}: the database did not answer"
                ) from error

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Connection]:
        since = perf_counter()
        conn = await self._pool.acquire(timeout=_CONNECT_TIMEOUT_S)
        metrics.DATABASE_WAIT_SECONDS.observe(perf_counter() - since)
        try:
            yield conn
        except (asyncio.CancelledError, asyncpg.InternalClientError):
            # A statement may still be under way: waiting for its end could take for ever.
            conn.terminate()
            raise
        except asyncpg.ReadOnlySQLTransactionError:
            # This server has been demoted, and lives on: who connects anew is led to the one that serves now.
            conn.terminate()
            await self._pool.expire_connections()
            raise
        finally:
            release = asyncio.ensure_future(self._pool.release(conn, timeout=_CONNECT_TIMEOUT_S))
            release.add_done_callback(_look_at_its_end)
            await asyncio.shield(release)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside one transaction, committed when the block ends well."""
        async with self.connection(counted_as="transaction") as conn, conn.transaction():
            yield conn

    async def in_transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do the work in one transaction, and all of it again when PostgreSQL undid it for another's.

        Raises:
            DatabaseUnavailableError: as `connection`; a conflict after three tries.
        """
        tries = AsyncRetrying(
            retry=retry_if_exception_type(DatabaseConflictError),
            stop=stop_after_attempt(3),
            wait=wait_random(0.0, 0.1),
            reraise=True,
        )

        async def once() -> T:
            async with self.transaction() as conn:
                return await work(conn)

        return await tries(once)


@contextmanager
def connecting() -> Iterator[None]:
    """Say of a connection that is not to be had why, without the names in its URL: one may be a secret.

    Raises:
        DatabaseUnavailableError: the server does not answer, or refuses us; its cause says how.
    """
    try:
        yield
    except (*_UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
        raise DatabaseUnavailableError(f"cannot connect to the database: {type(error).__name__}") from error


@asynccontextmanager
async def open_database(
    settings: Settings, *, patience_s: float = _COMMAND_TIMEOUT_S + 1
) -> AsyncIterator[Database]:
    """Open the pool and refuse a schema that this release cannot work on.

    Args:
        patience_s: how long a connection may be lent, waiting for it included.

    Raises:
        DatabaseUnavailableError: the server does not answer.
        SchemaError: no schema, or one that is not for this release.
    """
    with connecting():
        pool = await asyncpg.create_pool(
            settings.database_url.get_secret_value(),
            min_size=1,
            max_size=settings.database_pool_size,
            timeout=_START_TIMEOUT_S,
            command_timeout=_COMMAND_TIMEOUT_S,
            init=_init_connection,
            reset=_leave_session,
            **_session_options(settings, SESSION_SETTINGS),
        )
    try:
        async with pool.acquire() as conn:
            await _check_schema(conn)
        yield Database(pool, patience_s=patience_s)
    finally:
        await _close(pool)


@asynccontextmanager
async def open_connection(settings: Settings) -> AsyncIterator[Connection]:
    """Open a single connection, whatever schema is behind it, for the operator to look around.

    Raises:
        DatabaseUnavailableError: the server does not answer, or refuses us; its cause says how.
    """
    with connecting():
        conn = await asyncpg.connect(
            settings.database_url.get_secret_value(),
            timeout=_START_TIMEOUT_S,
            command_timeout=_COMMAND_TIMEOUT_S,
            **_session_options(settings),
        )
    try:
        yield conn
    finally:
        try:
            await conn.close(timeout=_CONNECT_TIMEOUT_S)
        except _UNAVAILABLE:
            conn.terminate()


def _session_options(settings: Settings, session_settings: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what a connection may take for granted of the session behind it.

    A pooler in transaction mode lends another session for each transaction: it refuses settings at the start,
    and what was prepared is not there the next time.
    """
    named = {"application_name": "autos"}
    if settings.database_direct_url:
        return {"server_settings": named, "statement_cache_size": 0}
    return {"server_settings": named | dict(session_settings or {})}


def _look_at_its_end(release: "asyncio.Future[None]") -> None:
    """Note a release that failed after everybody who waited for it was cancelled; the pool has dropped it."""
    if not release.cancelled() and (error := release.exception()):
        log.info("a connection was not given back in good order: %s", type(error).__name__)


async def _init_connection(conn: Connection) -> None:
    for name in ("json", "jsonb"):
        await conn.set_type_codec(
            name, schema="pg_catalog", encoder=_encode_json, decoder=orjson.loads, format="text"
        )


async def _leave_session(_: Connection) -> None:
    """A connection comes back as it was lent, so that no round trip is spent on bringing it in order.

    Nobody leaves anything in a session: no setting, listener or advisory lock beyond a transaction's end. A
    transaction that is still open asyncpg rolls back by itself.
    """


def _encode_json(value: Any) -> str:
    return orjson.dumps(value).decode()


async def stream(conn: Connection, query: str, *arguments: object) -> AsyncGenerator[asyncpg.Record, None]:
    """Yield the rows of a query of any size; memory holds a thousand of them."""
    async with conn.transaction(readonly=True):
        async for row in conn.cursor(query, *arguments, prefetch=_ROWS_PER_READ):
            yield row


async def clock(conn: Connection) -> datetime:
    """Return the time that it is for the database: the one for all hosts, whatever their own clocks say."""
    now: datetime = await conn.fetchval("select now()")
    return now


async def schema_state(conn: Connection) -> SchemaState | None:
    """Return what the database says of its schema, if it has one."""
    if await conn.fetchval("select to_regclass('schema_version')") is None:
        return None
    row = await conn.fetchrow("select version, serves_from from schema_version order by version desc limit 1")
    return None if row is None else SchemaState(**row)


async def _check_schema(conn: Connection) -> None:
    state = await schema_state(conn)
    if state is None:
        raise SchemaError("the database has no schema yet: run `python -m service db upgrade`")
    if not state.serves_us:
        raise SchemaError(f"the database has schema version {state.version}, this is for {SCHEMA_VERSION}")


async def _close(pool: Pool) -> None:
    try:
        async with asyncio.timeout(5):
            await pool.close()
    except TimeoutError:
        pool.terminate()
