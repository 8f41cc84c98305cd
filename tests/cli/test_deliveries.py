"""The log of webhooks on the command line, and sending them again."""

from datetime import UTC, datetime, timedelta

from tests.cases import case_numbers
from tests.cli.programs import CommandLine
from tests.receiver import Receiver
from tests.world import Caller, World

_GIVEN_UP = "select count(*) = $1 from deliveries where status = 'dead'"


async def _fail(world: World, caller: Caller, receiver: Receiver, count: int) -> list[str]:
    """Let the webhooks of so many jobs be given up; return their ids, the newest first."""
    receiver.statuses = [500] * count + [410] * count
    receiver.body = "no\x1b[2J such\nthing"
    url = receiver.url + "?token=hidden"
    numbers = case_numbers(count)
    await caller.post("/jobs/batch", json={"process_numbers": numbers, "webhook_url": url})
    await world.until(_GIVEN_UP, count)
    items = (await caller.get("/webhooks/deliveries", params={"status": "dead"})).json["items"]
    return [one["id"] for one in items]


async def test_deliveries_are_listed_shown_and_sent_again_one_by_one(
    world: World, caller: Caller, cli: CommandLine, receiver: Receiver
) -> None:
    (delivery_id,) = await _fail(world, caller, receiver, 1)
    listed = await cli.run("deliveries", "--failed")
    (line,) = listed.lines
    assert f"  {delivery_id}  dead  " in line
    assert line.endswith(f"  2 x  410  {receiver.url}")
    shown = await cli.run("deliveries", "show", delivery_id)
    first, second = shown.lines[-2:]
    assert (first.split()[0], first.split()[2]) == ("1", "500")
    assert (second.split()[0], second.split()[2]) == ("2", "410")
    assert first.endswith(" ms  no [2J such thing")
    again = await cli.run("deliveries", "redeliver", delivery_id)
    assert (again.status, "  pending  " in again.out) == (0, True)
    await receiver.wait_for(3)
    await world.until("select bool_and(status = 'delivered') from deliveries")
    assert (await cli.run("deliveries", "--failed")).out == ""
    assert "hidden" not in listed.out + shown.out + again.out
    unknown = await cli.run("deliveries", "show", "00000000-0000-0000-0000-000000000000")
    assert (unknown.status, unknown.err.startswith("autos: Not found: ")) == (1, True)


async def test_all_that_failed_since_a_time_is_sent_again(
    world: World, caller: Caller, cli: CommandLine, receiver: Receiver
) -> None:
    await _fail(world, caller, receiver, 3)
    later = datetime.now(UTC) + timedelta(hours=1)
    none = await cli.run("deliveries", "redeliver", "--failed", "--since", later.isoformat())
    assert none.lines == ["0 are sent again"]
    day_before = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
    sent = await cli.run("deliveries", "redeliver", "--failed", "--since", day_before)
    assert (sent.status, sent.lines) == (0, ["3 are sent again"])
    await world.until("select bool_and(status = 'delivered') from deliveries")


async def test_a_list_is_as_long_as_is_wished_whatever_a_page_holds(
    world: World, caller: Caller, cli: CommandLine, receiver: Receiver
) -> None:
    url = receiver.url
    numbers = case_numbers(3)
    await caller.post("/jobs/batch", json={"process_numbers": numbers, "webhook_url": url})
    await receiver.wait_for(3)
    async with world.db.connection() as conn:
        await conn.execute(
            """insert into deliveries (client_id, webhook_url, event, payload, status, created_at,
                                       delivered_at, finished_at)
               select client_id, webhook_url, event, payload, 'delivered', now() - n * interval '1 s',
                      now(), now()
               from (select * from deliveries limit 1) d, generate_series(1, 300) n"""
        )
    for limit in (2, 200, 250):
        assert len((await cli.run("deliveries", "--limit", str(limit))).lines) == limit
    assert len((await cli.run("deliveries", "--limit", "1000")).lines) == 303
    job_id = (await caller.get("/jobs")).json["items"][0]["job_id"]
    of_one = await cli.run("deliveries", "--job", job_id, "--limit", "1")
    assert len(of_one.lines) == 1


async def test_a_key_that_may_only_look_sends_nothing_again(
    world: World, caller: Caller, cli: CommandLine, receiver: Receiver
) -> None:
    (delivery_id,) = await _fail(world, caller, receiver, 1)
    async with world.db.connection() as conn:
        await conn.execute("update api_keys set scopes = '{read}'")
    assert (await cli.run("deliveries")).status == 0
    refused = await cli.run("deliveries", "redeliver", delivery_id)
    assert refused.status == 1
    assert refused.err.startswith("autos: The key is not for this: ")
