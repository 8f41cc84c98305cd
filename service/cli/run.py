"""One command of a caller, from its arguments to the exit status of the process."""

import os
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping

from service.cli import deliveries, erasure, jobs
from service.cli.api import Api, open_api
from service.cli.download import download
from service.cli.errors import UsageError
from service.core.settings import Settings

_COMMANDS: Mapping[str, Callable[[Api, Namespace], Awaitable[int]]] = {
    "submit": jobs.submit,
    "status": jobs.status,
    "watch": jobs.watch,
    "download": download,
    "erase": erasure.erase,
    "deliveries": deliveries.show_list,
    "deliveries show": deliveries.show,
    "deliveries redeliver": deliveries.redeliver,
}


async def run(settings: Settings, arguments: Namespace) -> int:
    """Run the command that the arguments name, against the API that they name."""
    try:
        async with open_api(_address(settings, arguments), _key(arguments)) as api:
            return await _COMMANDS[arguments.command](api, arguments)
    except UsageError as error:
        sys.stderr.write(f"autos: {error}\n")
        return 2


def _address(settings: Settings, arguments: Namespace) -> str:
    return getattr(arguments, "url", None) or os.environ.get("AUTOS_URL") or settings.public_url


def _key(arguments: Namespace) -> str:
    key = getattr(arguments, "key", None) or os.environ.get("AUTOS_KEY")
    if not key:
        raise UsageError("there is no API key: set AUTOS_KEY")
    return key
