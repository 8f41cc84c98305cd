"""What `make bench` needs of the schema, so that it does not stop at a table that is new."""

from service.core import clients, submission
from service.core.db import Connection
from service.core.settings import Settings
from service.core.wishes import Wish
from tests.bench.downloads import LEAVE_NOTHING
from tests.conftest import TABLES
from tests.rings import RING


async def test_between_two_runs_nothing_is_left_but_clients(conn: Connection, settings: Settings) -> None:
    client, _ = await clients.ensure(conn, RING, "acme")
    wish = Wish("10035792220258260564", webhook_url="https://hooks.example.com/")
    async with conn.transaction():
        await submission.submit(conn, wish, client.id, settings=settings)
    await conn.execute(LEAVE_NOTHING)
    left = {
        name
        for name in TABLES.replace(",", "").split()
        if await conn.fetchval(f"select exists (select from {name})")
    }
    assert left == {"clients", "signing_secrets"}
