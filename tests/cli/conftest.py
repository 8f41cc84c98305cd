"""A caller with a command line, in a world of API, worker, portal and S3."""

from collections.abc import AsyncIterator

import pytest

from tests.cli.front import Front, open_front
from tests.cli.programs import CommandLine
from tests.world import Caller, World


@pytest.fixture
async def caller(world: World) -> Caller:
    """A client of the running world."""
    return await world.caller()


@pytest.fixture
def cli(world: World, caller: Caller) -> CommandLine:
    """The command line of that client."""
    return CommandLine(world.settings, world.base_url, caller.key)


@pytest.fixture
async def front(world: World) -> AsyncIterator[Front]:
    """What stands before the API, for those who call it there."""
    async with open_front(world.base_url) as opened:
        yield opened


@pytest.fixture
def cli_at_front(world: World, caller: Caller, front: Front) -> CommandLine:
    """The command line of that client, with the front between it and the API."""
    return CommandLine(world.settings, front.url, caller.key)
