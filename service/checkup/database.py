"""PostgreSQL: does it answer, is it the one we need, and can its secrets be read."""

import time
from datetime import UTC, datetime

import asyncpg

from service.checkup.findings import Finding, Findings, ok, warning, wrong
from service.core import db, key_ring, signing_secrets
from service.core.db import Connection
from service.core.errors import DatabaseUnavailableError
from service.core.key_ring import KeyRing
from service.core.settings import Settings

_OLDEST_VERSION = 140_000
_CLOCK_WARNING_S = 5.0
# Receivers of webhooks allow five minutes, S3 allows fifteen.
_CLOCK_WRONG_S = 60.0
# One API and one worker, each with its pool, a listener, and a spare one.
_PROCESSES, _BESIDE_THE_POOL = 2, 2

_ADVICE: dict[type[BaseException], str] = {
    asyncpg.InvalidPasswordError: "it refuses the password of DATABASE_URL",
    asyncpg.InvalidAuthorizationSpecificationError: "it refuses the user of DATABASE_URL",
    asyncpg.InvalidCatalogNameError: "there is no such database: create it, or correct DATABASE_URL",
    asyncpg.TooManyConnectionsError: "it has no connection left: raise max_connections, or run less",
    ConnectionRefusedError: "nothing listens there: is PostgreSQL running, is DATABASE_URL right?",
    TimeoutError: "it does not answer: is DATABASE_URL right, is there a firewall?",
    ValueError: "DATABASE_URL is no URL of a PostgreSQL database",
}


async def check_database(settings: Settings) -> Findings:
    """Look at server, schema, clock and connections."""
    try:
        async with db.open_connection(settings) as conn:
            return [
                await _server(conn),
                await _schema(conn),
                judge_clock(await _difference_s(conn)),
                await _connections(conn, settings),
                await _pooler(conn, settings),
            ]
    except DatabaseUnavailableError as error:
        return [wrong("database", _advice(error))]


async def check_secrets(settings: Settings) -> Findings:
    """Look whether the keys are there with which every signing secret in the database can be read."""
    try:
        async with db.open_connection(settings) as conn:
            count, unreadable, unsealed = await signing_secrets.examine(conn, KeyRing(settings.key_ring))
    except DatabaseUnavailableError:
        return [wrong("secrets", "they cannot be read while the database does not answer")]
    except asyncpg.UndefinedTableError:
        return [wrong("secrets", "they cannot be read in a database without our schema")]
    if unreadable:
        words = "sealed with keys that are missing, or changed: AUTOS_SECRET_KEYS needs the keys of before"
        return [wrong("secrets", f"{unreadable} of {count} cannot be read: {words}")]
    if not settings.key_ring:
        return [warning("secrets", f"{key_ring.NO_KEYS}; `python -m service secrets new-key` makes a key")]
    if unsealed:
        words = "not sealed with the first key: `python -m service secrets seal` does it"
        return [warning("secrets", f"{unsealed} of {count} are {words}")]
    return [ok("secrets", f"{count}, each sealed with the first key of AUTOS_SECRET_KEYS")]


def _advice(error: DatabaseUnavailableError) -> str:
    cause = error.__cause__
    known = (words for kind, words in _ADVICE.items() if isinstance(cause, kind))
    return next(known, f"{error}: is DATABASE_URL right?")


async def _server(conn: Connection) -> Finding:
    number, name = (
        int(await conn.fetchval("show server_version_num")),
        await conn.fetchval("show server_version"),
    )
    if number < _OLDEST_VERSION:
        return wrong("database", f"it is PostgreSQL {name}: Autos needs 14 or later")
    if await conn.fetchval("show transaction_read_only") == "on":
        return wrong("database", "it takes no writes: DATABASE_URL has to lead to the primary")
    return ok("database", f"PostgreSQL {name} answers")


async def _schema(conn: Connection) -> Finding:
    state = await db.schema_state(conn)
    if state is None:
        return wrong("schema", "there is none yet: run `python -m service db upgrade`")
    words = f"the database has version {state.version}, this is for {db.SCHEMA_VERSION}"
    if not state.serves_us:
        return wrong("schema", f"{words}: run `python -m service db upgrade`, or the release that fits")
    if state.version > db.SCHEMA_VERSION:
        return warning("schema", f"{words}: it serves both, until this is brought up to date too")
    return ok("schema", f"version {state.version}")


async def _difference_s(conn: Connection) -> float:
    """How far our clock is ahead of the database's; half of the round trip is taken for its way there."""
    asked = time.time()
    there: datetime = await conn.fetchval("select clock_timestamp()")
    return (asked + time.time()) / 2 - there.astimezone(UTC).timestamp()


def judge_clock(difference_s: float) -> Finding:
    """Say what a difference between our clock and the database's means."""
    direction = "ahead of" if difference_s > 0 else "behind"
    words = f"ours is {abs(difference_s):.1f} s {direction} the database's"
    if abs(difference_s) < _CLOCK_WARNING_S:
        return ok("clock", words)
    words += ": links and signatures are dated by ours; run NTP on both machines"
    return (warning if abs(difference_s) < _CLOCK_WRONG_S else wrong)("clock", words)


async def _connections(conn: Connection, settings: Settings) -> Finding:
    most = int(await conn.fetchval("show max_connections"))
    reserved = int(await conn.fetchval("show superuser_reserved_connections"))
    each = settings.database_pool_size + _BESIDE_THE_POOL
    words = f"the server has {most - reserved}, each process takes up to {each}"
    if _PROCESSES * each > most - reserved:
        return wrong("connections", f"{words}: lower AUTOS_DATABASE_POOL_SIZE, or raise max_connections")
    return ok("connections", f"{words}: enough for {(most - reserved) // each} processes")


async def _pooler(conn: Connection, settings: Settings) -> Finding:
    """Look past the pooler, and for what it passes on for nobody: role or database have to have it."""
    if not settings.database_direct_url:
        return ok("pooler", "there is none, as AUTOS_DATABASE_DIRECT_URL is not set")
    past_it = {"database_url": settings.database_direct_url, "database_direct_url": None}
    try:
        async with db.open_connection(settings.model_copy(update=past_it)):
            pass
    except DatabaseUnavailableError as error:
        return wrong("pooler", _advice(error).replace("DATABASE_URL", "AUTOS_DATABASE_DIRECT_URL"))
    there = {name: await conn.fetchval("select current_setting($1)", name) for name in db.SESSION_SETTINGS}
    missing = [f"{name} = '{value}'" for name, value in db.SESSION_SETTINGS.items() if there[name] != value]
    if missing:
        words = "it passes these on for nobody, so the role of DATABASE_URL needs them: alter role … set"
        return warning("pooler", f"{words} {', '.join(missing)}")
    return ok("pooler", "the role of DATABASE_URL has what it does not pass on; past it PostgreSQL answers")
