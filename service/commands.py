"""The operator's commands: keys, clients, the database, and a look at everything."""

import argparse
import logging
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import ValidationError

from service.argument_types import between, positive
from service.audit_commands import add_audit, add_erasures
from service.core import (
    audit,
    clients,
    db,
    inventory,
    jobs,
    key_ring,
    schema,
    signing,
    signing_secrets,
)
from service.core.clients import Client
from service.core.db import Connection
from service.core.key_ring import KeyRing
from service.core.settings import Settings, refusals

if TYPE_CHECKING:
    from service.argument_types import Commands

_MOST_HOURS = 24 * 366
_MOST_DAYS = 3650
_ONCE = "They are shown this once: the key is kept as a hash only."


async def create_key(settings: Settings, arguments: argparse.Namespace) -> None:
    """Create a key, and the client when it is new; show what is shown once."""
    secret = signing.parse_secret(arguments.webhook_secret) if arguments.webhook_secret else None
    key = arguments.key or clients.new_key()
    async with db.open_database(settings) as database, database.transaction() as conn:
        ring = KeyRing(settings.key_ring)
        client, new_secret = await clients.ensure(conn, ring, arguments.client, webhook_secret=secret)
        scopes = arguments.scopes
        expires_at = await _end(conn, arguments.expires_days)
        # Not what was asked for: a given key that is there already keeps its end.
        ends_at = await clients.add_key(conn, client.id, key, scopes=scopes, expires_at=expires_at)
    print(f"client:         {client.name}")
    print(f"api key:        {key}")
    print(f"ends:           {_moment(ends_at) if ends_at else 'never'}")
    if shown := new_secret or secret:
        print(f"signing secret: {signing.show_secret(shown)}")
    print(_ONCE, file=sys.stderr)


async def list_keys(settings: Settings, _arguments: argparse.Namespace) -> None:
    """Show every key but its secret."""
    async with db.open_database(settings) as database, database.connection() as conn:
        now = await db.clock(conn)
        for key in await clients.list_keys(conn):
            state = _state(key, now)
            used = f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never"
            scopes = ",".join(key.scopes)
            print(f"{key.id:18} …{key.last_four}  {state:24} {scopes:10} {key.client}  last used: {used}")


async def rotate_key(settings: Settings, arguments: argparse.Namespace) -> None:
    """Create a key that takes the place of another, which goes on for a while."""
    key, grace = clients.new_key(), timedelta(hours=arguments.grace_hours)
    async with db.open_database(settings) as database, database.transaction() as conn:
        expires_at = await _end(conn, arguments.expires_days)
        client, ends_at = await clients.rotate_key(
            conn, arguments.id, key, grace=grace, expires_at=expires_at
        )
    print(f"client:  {client}")
    print(f"api key: {key}")
    print(f"ends:    {_moment(ends_at) if ends_at else 'never'}")
    print(f"The old one ends in {arguments.grace_hours:g} hours. {_ONCE}", file=sys.stderr)


async def revoke_key(settings: Settings, arguments: argparse.Namespace) -> None:
    """Make a key worthless at once."""
    async with db.open_database(settings) as database, database.connection() as conn:
        await clients.revoke_key(conn, arguments.id)
    print(f"key {arguments.id} is revoked")


async def rotate_secret(settings: Settings, arguments: argparse.Namespace) -> None:
    """Give a client another signing secret; the old one goes on signing beside it for a while."""
    secret, grace = signing.new_secret(), timedelta(hours=arguments.grace_hours)
    async with db.open_database(settings) as database, database.transaction() as conn:
        client = await clients.get(conn, arguments.name)
        await signing_secrets.put(conn, KeyRing(settings.key_ring), secret, client.id, grace=grace)
        await audit.note(conn, client.id, "client.secret_rotated", client.id)
    print(f"signing secret: {signing.show_secret(secret)}")
    print(f"The old one signs too for {arguments.grace_hours:g} hours.", file=sys.stderr)


async def new_secret_key(_settings: Settings, _arguments: argparse.Namespace) -> None:
    """Make a key for AUTOS_SECRET_KEYS."""
    print(key_ring.new_key())


async def seal_secrets(settings: Settings, _arguments: argparse.Namespace) -> None:
    """Seal every secret with the first key of AUTOS_SECRET_KEYS."""
    if not settings.key_ring:
        raise ValueError("AUTOS_SECRET_KEYS is not set: `python -m service secrets new-key` makes a key")
    async with db.open_database(settings) as database, database.transaction() as conn:
        count = await signing_secrets.seal_anew(conn, KeyRing(settings.key_ring))
    print(f"{count} secrets sealed with the first key; none needs another one")


async def upgrade(settings: Settings, _arguments: argparse.Namespace) -> None:
    """Bring the database to the present schema."""
    print(await schema.upgrade(settings.session_url))


async def show_database(settings: Settings, _arguments: argparse.Namespace) -> int:
    """Show what the database holds; return 1 when its schema is not one that this is for."""
    async with db.open_connection(settings) as conn:
        state = await db.schema_state(conn)
        print(f"schema version:  {state.version if state else 'none'} (this is for {db.SCHEMA_VERSION})")
        for table in await inventory.list_tables(conn):
            rows = "not counted yet" if table.rows is None else f"about {table.rows:,} rows"
            print(f"{table.name + ':':24} {rows}, {table.size_bytes / 1_000_000:,.1f} MB")
        if state is None or not state.serves_us:
            print("The schema is of another release: run `python -m service db upgrade`", file=sys.stderr)
            return 1
        stock = await jobs.take_stock(conn)
    oldest = "none" if stock.oldest_s is None else f"for {stock.oldest_s:,.0f} s"
    pending = stock.waiting + stock.later
    print(f"pending jobs:    {pending:,} ({stock.waiting:,} due; the oldest of those: {oldest})")
    print(f"processing jobs: {stock.running:,}")
    return 0


async def check_up(settings: Settings, _arguments: argparse.Namespace) -> int:
    """Look at every dependency and setting; return 1 when something is wrong."""
    # Not above: it reads what the API and the worker are made of.
    from service.checkup.run import run  # noqa: PLC0415

    # What the parts log of their troubles says the same as the findings, in other words.
    logging.disable(logging.WARNING)
    return await run(settings)


def say_refused_settings(error: ValidationError) -> None:
    """Say which settings are wrong, and why."""
    for line in refusals(error):
        sys.stderr.write(f"autos: {line}\n")


def _find_refused_settings(error: ValidationError) -> None:
    """The same as findings of a check-up."""
    for line in refusals(error):
        print(f"wrong    settings: {line}")
    print("wrong    everything else: cannot be looked at without settings")


async def list_clients(settings: Settings, _arguments: argparse.Namespace) -> None:
    """Show every client and its limits."""
    async with db.open_database(settings) as database, database.connection() as conn:
        for client in await clients.list_all(conn):
            print(_limits(client, settings))


async def limit_client(settings: Settings, arguments: argparse.Namespace) -> None:
    """Give a client limits of its own, or take them away."""
    async with db.open_database(settings) as database, database.connection() as conn:
        client = await clients.set_limits(
            conn,
            arguments.name,
            requests_per_minute=arguments.requests_per_minute,
            max_active_jobs=arguments.max_active_jobs,
        )
    print(_limits(client, settings))


async def set_secrecy(settings: Settings, arguments: argparse.Namespace) -> None:
    """Say up to which level of secrecy a client may have documents."""
    async with db.open_database(settings) as database, database.connection() as conn:
        client = await clients.set_max_secrecy(conn, arguments.name, arguments.level)
    print(_limits(client, settings))


def _limits(client: Client, settings: Settings) -> str:
    requests = client.requests_per_minute or f"{settings.requests_per_minute} (default)"
    active = client.max_active_jobs or f"{settings.max_active_jobs} (default)"
    level = f"{settings.max_secrecy} (default)" if client.max_secrecy is None else str(client.max_secrecy)
    return f"{client.name:20} requests a minute: {requests}  active jobs: {active}  secrecy up to: {level}"


async def _end(conn: Connection, days: int | None) -> datetime | None:
    return None if days is None else await db.clock(conn) + timedelta(days=days)


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def _state(key: clients.ApiKey, now: datetime) -> str:
    if key.revoked_at:
        return "revoked"
    if key.expires_at is None:
        return "live"
    return "expired" if key.expires_at <= now else f"live to {_moment(key.expires_at)}"


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 <= hours <= _MOST_HOURS:
        raise argparse.ArgumentTypeError(f"should be 0 to {_MOST_HOURS}")
    return hours


def _days(text: str) -> int:
    return between(text, 1, _MOST_DAYS)


def _level(text: str) -> int | None:
    if text == "default":
        return None
    if text not in tuple("012345"):
        raise argparse.ArgumentTypeError("should be 0 to 5, or default")
    return int(text)


def _scopes(text: str) -> list[str]:
    scopes = text.split(",")
    if not set(scopes) <= {*clients.SCOPES, clients.OPERATOR, clients.ERASE}:
        raise argparse.ArgumentTypeError("should be of read, write, operator and erase, with commas")
    return scopes


def add_commands(parser: argparse.ArgumentParser) -> "Commands":
    """Describe the commands to a parser, and return where more can be added.

    Each leaves its function in `run`; what that returns is the exit status, 0 for None.
    """
    commands = parser.add_subparsers(title="commands (without one, the API is served)")
    for add in (_add_keys, _add_clients, _add_secrets, add_audit, add_erasures, _add_database):
        add(commands)
    doctor = commands.add_parser("doctor", help="look at every dependency and setting, and say what is wrong")
    doctor.set_defaults(run=check_up, say_refused=_find_refused_settings)
    return commands


def _add_keys(commands: "Commands") -> None:
    keys = commands.add_parser("keys", help="API keys").add_subparsers(required=True)
    create = keys.add_parser("create", help="create a key, and its client when it is new")
    create.add_argument("--client", required=True, help="the client's name")
    create.add_argument("--key", help="use this very key instead of a new one")
    create.add_argument("--webhook-secret", help="use this signing secret (whsec_…) for the client")
    create.add_argument("--expires-days", type=_days, help="let the key end after so many days (1 to 3650)")
    create.add_argument(
        "--scopes",
        type=_scopes,
        default=clients.SCOPES,
        help="of read, write, operator and erase, with commas (default: read,write)",
    )
    create.set_defaults(run=create_key)
    rotate = keys.add_parser("rotate", help="create a key in the place of another")
    rotate.add_argument("id")
    rotate.add_argument("--grace-hours", type=_hours, default=24.0, help="how long the old one goes on (24)")
    rotate.add_argument(
        "--expires-days",
        type=_days,
        help="let the new one end after so many days (default: when the old one would have)",
    )
    rotate.set_defaults(run=rotate_key)
    keys.add_parser("list", help="list the keys").set_defaults(run=list_keys)
    revoke = keys.add_parser("revoke", help="revoke a key")
    revoke.add_argument("id")
    revoke.set_defaults(run=revoke_key)


def _add_clients(commands: "Commands") -> None:
    described = commands.add_parser("clients", help="clients and their limits").add_subparsers(required=True)
    described.add_parser("list", help="list the clients").set_defaults(run=list_clients)
    limit = described.add_parser("limit", help="set a client's limits; left out: as in the settings")
    limit.add_argument("name")
    limit.add_argument("--requests-per-minute", type=positive, help="with each of its keys")
    limit.add_argument("--max-active-jobs", type=positive, help="jobs that have not ended")
    limit.set_defaults(run=limit_client)
    # Not one of the limits above: who sets those must not lift this one by leaving it out.
    secrecy = described.add_parser("secrecy", help="set up to which secrecy a client may have documents")
    secrecy.add_argument("name")
    secrecy.add_argument(
        "level", type=_level, help="0 to 5, or default: AUTOS_MAX_SECRECY, which always holds"
    )
    secrecy.set_defaults(run=set_secrecy)
    rotate_own = described.add_parser("rotate-secret", help="give a client another signing secret")
    rotate_own.add_argument("name", help="the client's name")
    rotate_own.add_argument(
        "--grace-hours", type=_hours, default=24, help="how long the old one signs too (default: 24)"
    )
    rotate_own.set_defaults(run=rotate_secret)


def _add_secrets(commands: "Commands") -> None:
    secrets = commands.add_parser("secrets", help="secrets at rest").add_subparsers(required=True)
    secrets.add_parser("new-key", help="make a key for AUTOS_SECRET_KEYS").set_defaults(run=new_secret_key)
    secrets.add_parser("seal", help="seal every secret with the first key").set_defaults(run=seal_secrets)


def _add_database(commands: "Commands") -> None:
    database = commands.add_parser("db", help="the database").add_subparsers(required=True)
    database.add_parser("upgrade", help="create the schema, or bring it up to date").set_defaults(run=upgrade)
    database.add_parser("status", help="show what it holds").set_defaults(run=show_database)
