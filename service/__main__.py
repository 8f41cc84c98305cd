"""`python -m service`: the API, the operator's commands, and those of its callers."""

import argparse
import os
import sys
from typing import NoReturn

import asyncpg
import uvloop
from pydantic import ValidationError

from service.cli.arguments import add_caller_commands
from service.commands import add_commands, say_refused_settings
from service.core.errors import AutosError
from service.core.log import configure_logging, redact
from service.core.sentry import open_sentry
from service.core.settings import Settings
from service.core.tracing import open_tracing

_INTERRUPTED = 130  # what a shell says of a program that Ctrl-C has ended


def main() -> int:
    """Run a command; return the process's exit status."""
    arguments = _parser().parse_args()
    try:
        settings = Settings()
        configure_logging(settings)
        with open_sentry(settings):
            status = uvloop.run(arguments.run(settings, arguments))
        sys.stdout.flush()
    except ValidationError as error:
        arguments.say_refused(error)
        return 1
    except BrokenPipeError:
        # Who reads our output has enough of it; at the end Python would complain of what is still unwritten.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (AutosError, OSError, ValueError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"autos: {error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status or 0


async def _serve(settings: Settings, _arguments: argparse.Namespace) -> None:
    # Not above: a command that asks the database one thing need not wait for the whole API to be read.
    from service.serve import serve  # noqa: PLC0415

    with open_tracing(settings, service="autos-api"):
        await serve(settings)


class _Parser(argparse.ArgumentParser):
    """A parser that repeats no key of those who mistype an option."""

    def error(self, message: str) -> NoReturn:
        super().error(redact(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m service", description="The API of Autos.")
    parser.set_defaults(run=_serve, say_refused=say_refused_settings)
    add_caller_commands(add_commands(parser))
    return parser


sys.exit(main())
