"""`python -m service`: the API, and the operator's commands."""

import argparse
import asyncio
import signal
import sys
from datetime import UTC, datetime, timedelta

import asyncpg
import uvloop
from aiohttp import web

from service.app import create_app
from service.core import clients, db, signing
from service.core.errors import AutosError
from service.core.log import configure_logging
from service.core.settings import Settings
from service.keys import DRAINING

_KEEPALIVE_TIMEOUT_S = 75.0


def main() -> int:
    """Run a command; return the process's exit status."""
    arguments = _parser().parse_args()
    try:
        settings = Settings()
        configure_logging(settings)
        uvloop.run(arguments.run(settings, arguments))
    except (AutosError, OSError, ValueError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"autos: {error}\n")
        return 1
    return 0


async def serve(settings: Settings, _arguments: argparse.Namespace) -> None:
    """Answer requests until SIGTERM, then finish those that are under way."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    app = create_app(settings)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=_KEEPALIVE_TIMEOUT_S,
        shutdown_timeout=settings.drain_s,
        # A compressed body would be unpacked, and a refused one read to its end, before any of our
        # limits is asked.
        auto_decompress=False,
        lingering_time=0,
    )
    try:
        await runner.setup()
        await web.TCPSite(runner, settings.host, settings.port, reuse_port=False).start()
        print(f"autos: listening on {settings.host}:{settings.port}", file=sys.stderr, flush=True)
        await stop.wait()
        # It still answers for a while, and each answer ends its connection: who sends a request down a
        # connection in the moment in which it is closed cannot know whether it was heard.
        app[DRAINING].set()
        await asyncio.sleep(settings.drain_notice_s)
    finally:
        await runner.cleanup()


async def create_key(settings: Settings, arguments: argparse.Namespace) -> None:
    """Create a key, and the client when it is new; show what is shown once."""
    secret = signing.parse_secret(arguments.webhook_secret) if arguments.webhook_secret else None
    key = arguments.key or clients.new_key()
    days = arguments.expires_days
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    async with db.open_database(settings) as database, database.transaction() as conn:
        client, is_new = await clients.ensure(conn, arguments.client, webhook_secret=secret)
        await clients.add_key(conn, client.id, key, expires_at=expires_at)
    print(f"client:         {client.name}")
    print(f"api key:        {key}")
    if is_new or secret:
        print(f"signing secret: {signing.show_secret(client.webhook_secret)}")
    print("They are shown this once: the key is kept as a hash only.", file=sys.stderr)


async def list_keys(settings: Settings, _arguments: argparse.Namespace) -> None:
    """Show every key but its secret."""
    async with db.open_database(settings) as database, database.connection() as conn:
        for key in await clients.list_keys(conn):
            state = "revoked" if key.revoked_at else "live"
            used = f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never"
            print(f"{key.id:18} …{key.last_four}  {state:8} {key.client}  last used: {used}")


async def revoke_key(settings: Settings, arguments: argparse.Namespace) -> None:
    """Make a key worthless at once."""
    async with db.open_database(settings) as database, database.connection() as conn:
        await clients.revoke_key(conn, arguments.id)
    print(f"key {arguments.id} is revoked")


async def upgrade(settings: Settings, _arguments: argparse.Namespace) -> None:
    """Bring the database to the present schema."""
    print(await db.upgrade(settings.database_url.get_secret_value()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description="The API of Autos.")
    parser.set_defaults(run=serve)
    commands = parser.add_subparsers(title="commands (without one, the API is served)")
    keys = commands.add_parser("keys", help="API keys").add_subparsers(required=True)
    create = keys.add_parser("create", help="create a key, and its client when it is new")
    create.add_argument("--client", required=True, help="the client's name")
    create.add_argument("--key", help="use this very key instead of a new one")
    create.add_argument("--webhook-secret", help="use this signing secret (whsec_…) for the client")
    create.add_argument("--expires-days", type=int, help="let the key end after so many days")
    create.set_defaults(run=create_key)
    keys.add_parser("list", help="list the keys").set_defaults(run=list_keys)
    revoke = keys.add_parser("revoke", help="revoke a key")
    revoke.add_argument("id")
    revoke.set_defaults(run=revoke_key)
    database = commands.add_parser("db", help="the database").add_subparsers(required=True)
    database.add_parser("upgrade", help="create the schema").set_defaults(run=upgrade)
    return parser


sys.exit(main())
