"""The way of a database to the present schema: at once, or step by step from an earlier release's."""

from pathlib import Path

import asyncpg
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from service.core.db import SCHEMA_VERSION, Connection, connecting, schema_state
from service.core.errors import SchemaError

_CONNECT_TIMEOUT_S = 10.0
# One lock for everybody who would change the schema at the same time; the number is arbitrary.
_SCHEMA_LOCK = 4_127_650_065
# A step that waits for a table keeps everybody else from it: better to let them through and try again.
_LOCK_TIMEOUT = "2s"
_TRIES = 20
_STEPS = Path(__file__).with_name("schema_steps")


async def upgrade(database_url: str, *, connect_timeout_s: float = _CONNECT_TIMEOUT_S) -> str:
    """Bring a database to the present schema; say in one line what was done.

    All steps are one transaction. Safe to run from many processes at once, beside API and workers that run.

    Args:
        connect_timeout_s: for tests only.

    Raises:
        DatabaseUnavailableError: the server does not answer, or refuses us.
        SchemaError: the schema is of a later release, or a table was not to be had in twenty tries.
    """
    with connecting():
        conn = await asyncpg.connect(database_url, timeout=connect_timeout_s)
    tries = AsyncRetrying(
        retry=retry_if_exception_type(asyncpg.LockNotAvailableError),
        stop=stop_after_attempt(_TRIES),
        wait=wait_random(0.5, 1.5),
        reraise=True,
    )
    try:
        return await tries(_upgrade, conn)
    except asyncpg.LockNotAvailableError:
        raise SchemaError("a table was in use all the time: nothing was changed; try again later") from None
    finally:
        await conn.close(timeout=connect_timeout_s)


async def _upgrade(conn: Connection) -> str:
    async with conn.transaction():
        await conn.execute("set local statement_timeout = 0")
        await conn.execute("select pg_advisory_xact_lock($1)", _SCHEMA_LOCK)
        await conn.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
        state = await schema_state(conn)
        if state is None:
            await conn.execute(_present().read_text())
            return f"schema version {SCHEMA_VERSION} created"
        if state.version > SCHEMA_VERSION:
            raise SchemaError(
                f"the database has schema version {state.version}, this is for {SCHEMA_VERSION}: "
                "there is no way back"
            )
        for version in range(state.version + 1, SCHEMA_VERSION + 1):
            await conn.execute((_STEPS / f"{version}.sql").read_text())
    if state.version == SCHEMA_VERSION:
        return f"schema version {SCHEMA_VERSION} was already there"
    return f"schema version {state.version} became {SCHEMA_VERSION}"


def _present() -> Path:
    """Where `schema.sql` lies: at the top of a checkout, or inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "schema.sql"
    return installed if installed.exists() else package.parent / "schema.sql"
