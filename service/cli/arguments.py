"""What callers can say on the command line."""

import argparse
from typing import TYPE_CHECKING
from uuid import UUID

from service.argument_types import between, moment
from service.core.settings import Settings

if TYPE_CHECKING:
    from service.argument_types import Commands

_MOST_PARALLEL = 32
_NUMBER = "process number, masked or its 20 digits"


async def run_for_caller(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run a caller's command."""
    # Not above: aiohttp takes longer to read than most commands need.
    from service.cli.run import run  # noqa: PLC0415

    return await run(settings, arguments)


def add_caller_commands(commands: "Commands") -> None:
    """Describe the commands that talk to the API as any caller does."""
    where = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    where.add_argument("--url", help="the API's address (default: AUTOS_URL, else AUTOS_PUBLIC_URL)")
    where.add_argument("--key", help="the API key; better in AUTOS_KEY: others can read a command line")
    _add_submit(commands, where)
    status = _added(commands, where, "status", says="show how a process stands")
    status.add_argument("number", help=_NUMBER)
    status.add_argument("--json", action="store_true", help="the API's answer as it is")
    status.add_argument("--documents", action="store_true", help="with each document")
    watch = _added(
        commands, where, "watch", says="show progress as it comes: of one process, or all your jobs"
    )
    watch.add_argument("number", nargs="?", help=f"{_NUMBER}; all jobs without one")
    _add_download(commands, where)
    erase = _added(commands, where, "erase", says="erase a process: all that is yours, for good")
    erase.add_argument("number", help=_NUMBER)
    erase.add_argument("--everyone", action="store_true", help="what every client has (an operator's key)")
    _add_deliveries(commands, where)


def _add_submit(commands: "Commands", where: argparse.ArgumentParser) -> None:
    submit = _added(commands, where, "submit", says="ask for processes")
    submit.add_argument("numbers", nargs="+", metavar="number", help=f"{_NUMBER}; - reads standard input")
    submit.add_argument(
        "--follow",
        action=argparse.BooleanOptionalAction,
        help="show the progress of a single process to its end (default: on a terminal)",
    )
    submit.add_argument("--webhook-url", help="told when a job is final")
    submit.add_argument(
        "--max-age", type=_seconds, dest="max_age_s", metavar="S", help="how old what is there may be"
    )
    submit.add_argument("--priority", choices=("high", "normal", "low"))
    submit.add_argument("--reference", help="your own name for it")


def _add_download(commands: "Commands", where: argparse.ArgumentParser) -> None:
    download = _added(commands, where, "download", says="save all documents of a process in a folder")
    download.add_argument("number", help=_NUMBER)
    download.add_argument("--to", required=True, metavar="FOLDER", help="made when it is missing")
    download.add_argument("--parallel", type=_parallel, default=4, metavar="N", help="files at once (4)")
    download.add_argument("--submit", action="store_true", help="ask for the process if you never did")


def _add_deliveries(commands: "Commands", where: argparse.ArgumentParser) -> None:
    deliveries = _added(commands, where, "deliveries", says="what was sent to your webhooks")
    deliveries.add_argument("--failed", action="store_true", help="those that were given up")
    deliveries.add_argument("--job", type=UUID, metavar="ID", help="those of one job")
    deliveries.add_argument("--limit", type=_limit, default=50, metavar="N", help="how many (50)")
    of_one = deliveries.add_subparsers(title="or")
    show = _added(of_one, where, "show", says="one with its attempts", command="deliveries show")
    show.add_argument("id", type=UUID)
    again = _added(of_one, where, "redeliver", says="send again", command="deliveries redeliver")
    again.add_argument("id", type=UUID, nargs="?")
    again.add_argument(
        "--failed", action="store_true", dest="all_failed", help="all that were given up since"
    )
    again.add_argument("--since", type=moment, metavar="TIME", help="2026-03-02T12:00:00Z, or 2026-03-02")


def _added(
    commands: "Commands",
    where: argparse.ArgumentParser,
    name: str,
    *,
    says: str,
    command: str = "",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=says, description=says, parents=[where])
    parser.set_defaults(run=run_for_caller, command=command or name)
    return parser


def _seconds(text: str) -> int:
    return between(text, 0, 31_536_000)


def _parallel(text: str) -> int:
    return between(text, 1, _MOST_PARALLEL)


def _limit(text: str) -> int:
    return between(text, 1, 1_000_000)
