"""`python -m service`: the API, and the operator's commands."""

import argparse
import sys

import asyncpg
import uvloop

from service.commands import add_commands
from service.core.errors import AutosError
from service.core.log import configure_logging
from service.core.sentry import open_sentry
from service.core.settings import Settings


def main() -> int:
    """Run a command; return the process's exit status."""
    arguments = _parser().parse_args()
    try:
        settings = Settings()
        configure_logging(settings)
        with open_sentry(settings):
            uvloop.run(arguments.run(settings, arguments))
    except (AutosError, OSError, ValueError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"autos: {error}\n")
        return 1
    return 0


async def _serve(settings: Settings, _arguments: argparse.Namespace) -> None:
    # Not above: a command that asks the database one thing need not wait for the whole API to be read.
    from service.serve import serve  # noqa: PLC0415

    await serve(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description="The API of Autos.")
    parser.set_defaults(run=_serve)
    add_commands(parser)
    return parser


sys.exit(main())
