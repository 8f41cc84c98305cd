"""Somebody who reads the dashboard, as far as no browser is needed: it follows links and sends forms."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from service.core import clients
from tests.world import World

OPERATOR = ("read", "write", "operator")


@dataclass(frozen=True)
class Page:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str
    path: str


@dataclass
class Reader:
    """A browser without a window."""

    http: aiohttp.ClientSession
    base_url: str

    async def get(self, path: str, **headers: str) -> Page:
        """Follow a link of ours; redirects are followed."""
        async with self.http.get(self.base_url + path, headers=headers) as answer:
            return Page(answer.status, answer.headers, await answer.text(), answer.url.path_qs)

    async def post(self, path: str, *, origin: str | None = None, **fields: str) -> Page:
        """Send a form of ours, or one of somebody else's page; where that leads is followed."""
        headers = {"Origin": origin or self.base_url}
        async with self.http.post(self.base_url + path, data=fields, headers=headers) as answer:
            return Page(answer.status, answer.headers, await answer.text(), answer.url.path_qs)

    async def sign_in(self, key: str, *, to: str = "/") -> Page:
        """Give a key at the entrance."""
        return await self.post("/login", key=key, next=to)


@asynccontextmanager
async def open_reader(base_url: str) -> AsyncIterator[Reader]:
    """Open a browser that knows no session."""
    jar = aiohttp.CookieJar(unsafe=True)  # unsafe: cookies of an address, which tests are served from
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        yield Reader(http, base_url)


@asynccontextmanager
async def signed_in(world: World, key: str) -> AsyncIterator[Reader]:
    """Open a browser that has given a key."""
    async with open_reader(world.base_url) as reader:
        assert (await reader.sign_in(key)).status == 200
        yield reader


async def add_key(world: World, client_name: str, *scopes: str) -> str:
    """Give a client that is there another key, for these scopes."""
    key = clients.new_key()
    async with world.db.transaction() as conn:
        client = await clients.get(conn, client_name)
        await clients.add_key(conn, client.id, key, scopes=scopes)
    return key
