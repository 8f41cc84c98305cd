"""Whether a listener for news is there."""

import asyncio
from uuid import uuid4

import asyncpg

from service.core.news import CHANNEL, News


async def until_heard(news: News, database_url: str) -> None:
    """Wait until one job alone is heard of: a listener that does not get through wakes everybody at times."""
    ours, other = uuid4(), uuid4()
    conn = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(30):
            with news.of(ours) as told, news.of(other) as not_told:
                while not told.is_set() or not_told.is_set():
                    told.clear()
                    not_told.clear()
                    await conn.execute("select pg_notify($1, $2)", CHANNEL, str(ours))
                    await asyncio.sleep(0.05)
    finally:
        await conn.close()
