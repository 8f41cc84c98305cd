"""Erasing on the command line."""

import re

from tests.cli.programs import CommandLine
from tests.erasures import ERASER
from tests.world import World

CASE = "1003579-22.2025.8.26.0564"


async def test_a_process_is_erased_and_the_receipt_shown(api: World) -> None:
    caller = await api.caller(scopes=[*ERASER, "operator"])
    await (await api.caller("other")).post("/jobs", json={"process_number": CASE})
    cli = CommandLine(api.settings, api.base_url, caller.key)
    erased = await cli.run("erase", CASE, "--everyone")
    assert (erased.status, erased.err) == (0, "")
    receipt = dict(re.split(r" +", line, maxsplit=1) for line in erased.lines)
    assert receipt["erased"].startswith("1 jobs, 0 documents, 0 webhooks,")
    shown = (await caller.get(f"/erasures/{receipt['erasure']}")).json
    assert (receipt["proof"], shown["of_everyone"]) == (shown["proof"], True)
