"""`python -m tests.bench.baselines.peer`: the same job, as a good asyncio programmer writes it down plainly.

Says "ready", then brings in the processes of each line on stdin (20 digits each, spaces between) all at once,
and says "done" when the last is in. The environment is that of Autos's worker, and CONCURRENCY: how many
requests to the portal, each with the upload that follows, may be under way.
Nothing is tried twice: what fails ends the program.
"""

import asyncio
import hashlib
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast
from uuid import UUID

import aioboto3
import aiohttp
import asyncpg
import orjson
import uvloop
from aiobotocore.config import AioConfig
from boto3.s3.transfer import TransferConfig

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Pool = asyncpg.Pool

_TABLES = """
    create table if not exists peer_jobs (
        id bigint generated always as identity primary key,
        number text not null,
        status text not null default 'processing',
        created_at timestamptz not null default now(),
        finished_at timestamptz
    );
    create table if not exists peer_documents (
        job_id bigint not null references peer_jobs,
        uuid uuid not null,
        name text not null,
        status text not null default 'pending',
        object_key text,
        size_bytes bigint,
        sha256 bytea,
        stored_at timestamptz,
        primary key (job_id, uuid)
    );
"""


_PARTS_AT_ONCE = 4
# By default the library reads a hundred parts of each file ahead.
_TRANSFER = TransferConfig(max_concurrency=_PARTS_AT_ONCE, max_io_queue=_PARTS_AT_ONCE)


class _Hashed:
    """A body on its way from the portal to S3, and what it is by now."""

    def __init__(self, stream: aiohttp.StreamReader) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    async def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most so many; none at the end."""
        data = await self._stream.read(size)
        self.sha256.update(data)
        self.size_bytes += len(data)
        return data


@dataclass(frozen=True)
class Peer:
    """One process's clients; `limit` bounds what is asked of the portal at once."""

    portal: aiohttp.ClientSession
    s3: "S3Client"
    db: Pool
    limit: asyncio.Semaphore
    portal_url: str
    bucket: str

    async def run(self, number: str) -> None:
        """Bring in all documents of the process with these 20 digits."""
        job_id = await self.db.fetchval("insert into peer_jobs (number) values ($1) returning id", number)
        documents = await self._list(number)
        await self.db.executemany(
            "insert into peer_documents (job_id, uuid, name) values ($1, $2, $3)",
            [(job_id, _uuid(document), document["nome"]) for document in documents],
        )
        async with asyncio.TaskGroup() as group:
            for document in documents:
                group.create_task(self._bring(job_id, number, document))
        await self.db.execute(
            "update peer_jobs set status = 'completed', finished_at = now() where id = $1", job_id
        )

    async def _list(self, number: str) -> list[dict[str, Any]]:
        async with self.limit, self.portal.get(f"{self.portal_url}/processos/{number}") as response:
            (process,) = await response.json(loads=orjson.loads)
        return list(process["tramitacaoAtual"]["documentos"])

    async def _bring(self, job_id: int, number: str, document: dict[str, Any]) -> None:
        uuid = _uuid(document)
        key = f"peer/{number}/{uuid}"
        async with self.limit, self.portal.get(f"{self.portal_url}{document['hrefBinario']}") as response:
            size_bytes, sha256 = await self._upload(response, key)
        await self.db.execute(
            """update peer_documents
               set status = 'available', object_key = $3, size_bytes = $4, sha256 = $5, stored_at = now()
               where job_id = $1 and uuid = $2""",
            *(job_id, uuid, key, size_bytes, sha256),
        )

    async def _upload(self, response: aiohttp.ClientResponse, key: str) -> tuple[int, bytes]:
        """Return the size in bytes and the SHA-256 of what was stored."""
        body = _Hashed(response.content)
        await self.s3.upload_fileobj(
            cast("IO[bytes]", body),
            self.bucket,
            key,
            ExtraArgs={"ContentType": response.content_type},
            Config=_TRANSFER,
        )
        return body.size_bytes, body.sha256.digest()


def _uuid(document: dict[str, Any]) -> UUID:
    return UUID(document["hrefBinario"].split("/")[-2])


async def main(environ: dict[str, str]) -> None:
    """Serve stdin until it ends."""
    async with AsyncExitStack() as stack:
        peer = await _open_peer(stack, environ)
        await peer.db.execute(_TABLES)
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            async with asyncio.TaskGroup() as group:
                for number in line.split():
                    group.create_task(peer.run(number))
            print("done", flush=True)


async def _open_peer(stack: AsyncExitStack, environ: dict[str, str]) -> Peer:
    portal = aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {environ['AUTOS_PORTAL_TOKEN']}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=20),
        raise_for_status=True,
    )
    concurrency = int(environ["CONCURRENCY"])
    s3 = aioboto3.Session().client(
        "s3",
        endpoint_url=environ["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        region_name=environ["AWS_REGION"],
        config=AioConfig(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            # Every part a connection: a server that writes parts in their order, as rclone does, reads no
            # later one before the first, and the first would wait for the connections of the later ones.
            max_pool_connections=concurrency * _PARTS_AT_ONCE,
        ),
    )
    return Peer(
        portal=await stack.enter_async_context(portal),
        s3=await stack.enter_async_context(s3),
        db=await stack.enter_async_context(asyncpg.create_pool(environ["DATABASE_URL"])),
        limit=asyncio.Semaphore(concurrency),
        portal_url=environ["AUTOS_PORTAL_URL"],
        bucket=environ["AUTOS_BUCKET"],
    )


if __name__ == "__main__":
    uvloop.run(main(dict(os.environ)))
