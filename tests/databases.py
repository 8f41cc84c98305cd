"""Databases for a while, on a server that is there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from service.core.schema import upgrade


@asynccontextmanager
async def new_database(server_url: str, *, name: str) -> AsyncIterator[str]:
    """Create a database with the schema, whose name begins so; yields its URL, and it is gone afterwards."""
    async with bare_database(server_url, name=name) as url:
        await upgrade(url)
        yield url


@asynccontextmanager
async def clock_apart(database_url: str, *, hours: int) -> AsyncIterator[str]:
    """Yield a URL of the same database by which its clock is so far ahead of ours, or behind it.

    Its `now()` only, in statements; what the schema says by itself goes by the real one.
    """
    conn = await asyncpg.connect(database_url)
    try:
        await conn.execute(
            f"""create schema apart;
                create function apart.now() returns timestamptz language sql stable
                as $$ select pg_catalog.now() + interval '{hours} hours' $$"""
        )
        yield f"{database_url}?search_path=apart,public,pg_catalog"
    finally:
        await conn.execute("drop schema if exists apart cascade")
        await conn.close()


@asynccontextmanager
async def bare_database(server_url: str, *, name: str) -> AsyncIterator[str]:
    """The same without the schema."""
    name = f"{name}_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(server_url)
    try:
        await admin.execute(f"create database {name}")
        try:
            yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
        finally:
            await admin.execute(f"drop database {name} with (force)")
    finally:
        await admin.close()
