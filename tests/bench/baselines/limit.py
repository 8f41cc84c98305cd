"""`python -m tests.bench.baselines.limit`: the bytes go from the portal to S3, and nothing else is done.

What no program of this kind can well be faster than: no database, no queue, no hash, no second try, and
requests to S3 that are signed by hand. Spoken to like `tests.bench.baselines.peer`, in the same environment.
"""

import asyncio
import hashlib
import hmac
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import uvloop
from yarl import URL

_SIGNED = "host;x-amz-content-sha256;x-amz-date"


@dataclass(frozen=True)
class Signer:
    """Signs a PUT whose body nobody has read yet: AWS Signature Version 4 in the headers."""

    host: str
    region: str
    access_key: str
    secret_key: str

    def headers(self, path: str, size_bytes: int) -> dict[str, str]:
        """Return what the request is sent with; the path has nothing in it that would be escaped."""
        moment = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        scope = f"{moment[:8]}/{self.region}/s3/aws4_request"
        request = (
            f"PUT\n{path}\n\nhost:{self.host}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{moment}\n\n"
            f"{_SIGNED}\nUNSIGNED-PAYLOAD"
        )
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(_signing_key(self.secret_key, scope), text.encode(), "sha256").hex()
        return {
            "Host": self.host,
            "Content-Length": str(size_bytes),
            "X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD",
            "X-Amz-Date": moment,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
            f"SignedHeaders={_SIGNED}, Signature={signature}",
        }


@lru_cache(maxsize=2)
def _signing_key(secret_key: str, scope: str) -> bytes:
    """The key of one day."""
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


@dataclass(frozen=True)
class Pipe:
    """One session to each side; `limit` bounds what is asked of the portal at once."""

    portal: aiohttp.ClientSession
    s3: aiohttp.ClientSession
    signer: Signer
    limit: asyncio.Semaphore
    portal_url: str
    s3_url: str
    bucket: str

    async def run(self, number: str) -> None:
        """Copy all documents of the process with these 20 digits."""
        url = URL(f"{self.portal_url}/processos/{number}", encoded=True)
        async with self.limit, self.portal.get(url) as response:
            _expect_ok(response)
            (process,) = orjson.loads(await response.read())
        async with asyncio.TaskGroup() as group:
            for document in process["tramitacaoAtual"]["documentos"]:
                group.create_task(self._copy(number, document))

    async def _copy(self, number: str, document: dict[str, Any]) -> None:
        link = document["hrefBinario"]
        # One folder for all: rclone answers 500 when many first objects make the same new one at a time.
        path = f"/{self.bucket}/limit/{number}-{link.split('/')[-2]}"
        source = URL(f"{self.portal_url}{link}", encoded=True)
        target = URL(f"{self.s3_url}{path}", encoded=True)
        async with self.limit, self.portal.get(source) as response:
            _expect_ok(response)
            assert response.content_length is not None
            headers = self.signer.headers(path, response.content_length)
            async with self.s3.put(target, headers=headers, data=response.content) as stored:
                _expect_ok(stored)


def _expect_ok(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise RuntimeError(f"{response.method} {response.url} was answered with {response.status}")


async def main(environ: dict[str, str]) -> None:
    """Serve stdin until it ends."""
    async with AsyncExitStack() as stack:
        pipe = await _open_pipe(stack, environ)
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            async with asyncio.TaskGroup() as group:
                for number in line.split():
                    group.create_task(pipe.run(number))
            print("done", flush=True)


async def _open_pipe(stack: AsyncExitStack, environ: dict[str, str]) -> Pipe:
    s3_url = environ["AWS_ENDPOINT_URL_S3"].rstrip("/")
    return Pipe(
        portal=await stack.enter_async_context(
            _session({"Authorization": f"Bearer {environ['AUTOS_PORTAL_TOKEN']}"})
        ),
        s3=await stack.enter_async_context(_session({})),
        signer=Signer(
            host=urlsplit(s3_url).netloc,
            region=environ["AWS_REGION"],
            access_key=environ["AWS_ACCESS_KEY_ID"],
            secret_key=environ["AWS_SECRET_ACCESS_KEY"],
        ),
        limit=asyncio.Semaphore(int(environ["CONCURRENCY"])),
        portal_url=environ["AUTOS_PORTAL_URL"],
        s3_url=s3_url,
        bucket=environ["AUTOS_BUCKET"],
    )


def _session(headers: dict[str, str]) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers=headers,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


if __name__ == "__main__":
    uvloop.run(main(dict(os.environ)))
