"""S3 servers for tests: two real ones, and one that misbehaves as a test tells it to."""

import asyncio
import base64
import hashlib
import importlib
import os
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from service.core.settings import Settings
from service.sandbox.s3 import S3Server, open_s3

KINDS = ("rclone", "moto")


def s3_settings(server: S3Server, **changes: Any) -> Settings:
    """Settings that lead to the server; `changes` may go below the bounds that a real store needs."""
    settings = Settings(
        _env_file=None,
        s3_endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        aws_session_token=None,
        aws_region=server.region,
        bucket="court-files",
        s3_public_url=None,
    )
    return settings.model_copy(update=changes)


@asynccontextmanager
async def open_server(kind: str, folder: Path) -> AsyncIterator[S3Server]:
    """Start one of `KINDS`; rclone keeps its objects in the folder."""
    if kind == "rclone":
        async with open_s3(folder, bucket="court-files") as server:
            yield server
    else:
        async with _open_moto() as server:
            yield server


@asynccontextmanager
async def _open_moto() -> AsyncIterator[S3Server]:
    # moto's own knob, which it reads when it is imported.
    os.environ["S3_UPLOAD_PART_MIN_SIZE"] = "1"
    moto = importlib.import_module("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", "MOTOACCESSKEY", "moto-secret-key", "us-east-1")
    finally:
        moto.stop()


Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""What happens to a request; None lets it go on."""


@dataclass
class FaultyS3:
    """Just enough of S3 to store an object, each operation with the fault that a test sets.

    Attributes:
        faults: what happens at `create`, `part`, `complete`, `abort` or `put`.
        calls: how often each operation was asked.
        uploads: those that are neither completed nor aborted.
        objects: the bytes of each path.
    """

    endpoint_url: str = ""
    faults: dict[str, Fault] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    @property
    def server(self) -> S3Server:
        """Where it is; it checks no signatures."""
        return S3Server(self.endpoint_url, "FAULTYACCESSKEY", "faulty-secret-key", "us-east-1")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request."""
        operation = _operation(request)
        self.calls[operation] += 1
        if fault := self.faults.get(operation):
            response = await fault(request)
            if response is not None:
                return response
        step: Callable[[web.Request], Awaitable[web.Response]] = getattr(self, f"_{operation}")
        return await step(request)

    async def _create(self, _request: web.Request) -> web.Response:
        upload_id = f"upload-{self.calls['create']}"
        self.uploads[upload_id] = {}
        return _xml(
            f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
        )

    async def _part(self, request: web.Request) -> web.Response:
        body = await request.read()
        checksum = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
        if request.headers["x-amz-checksum-crc32"] != checksum:
            return error(400, "BadDigest")
        self.uploads[request.query["uploadId"]][int(request.query["partNumber"])] = body
        return web.Response(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    async def _complete(self, request: web.Request) -> web.Response:
        parts = self.uploads.pop(request.query["uploadId"])
        self.objects[request.path] = b"".join(parts[number] for number in sorted(parts))
        return _xml("<CompleteMultipartUploadResult><ETag>whole</ETag></CompleteMultipartUploadResult>")

    async def _abort(self, request: web.Request) -> web.Response:
        if self.uploads.pop(request.query["uploadId"], None) is None:
            return error(404, "NoSuchUpload")
        return web.Response(status=204)

    async def _put(self, request: web.Request) -> web.Response:
        body = await request.read()
        checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if request.headers["x-amz-checksum-sha256"] != checksum:
            return error(400, "BadDigest")
        self.objects[request.path] = body
        return web.Response()

    async def _other(self, _request: web.Request) -> web.Response:
        return web.Response(status=404)


@asynccontextmanager
async def open_faulty_s3() -> AsyncIterator[FaultyS3]:
    """Serve on a free port of loopback."""
    s3 = FaultyS3()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", s3.answer)
    server = TestServer(app)
    # Requests that hang end with their connection: a test server cancels its handlers.
    await server.start_server(shutdown_timeout=0.1)
    s3.endpoint_url = str(server.make_url("")).rstrip("/")
    try:
        yield s3
    finally:
        await server.close()


def _operation(request: web.Request) -> str:
    query = request.query
    if request.method == "POST":
        return "create" if "uploads" in query else "complete"
    if request.method == "PUT":
        return "part" if "partNumber" in query else "put"
    return "abort" if request.method == "DELETE" and "uploadId" in query else "other"


def error(status: int, code: str) -> web.Response:
    """Answer as S3 does when something is wrong."""
    return _xml(f"<Error><Code>{code}</Code><Message>invented</Message></Error>", status=status)


def _xml(text: str, *, status: int = 200) -> web.Response:
    return web.Response(text=f'<?xml version="1.0"?>{text}', status=status, content_type="application/xml")


# Faults --------------------------------------------------------------------------------------------


async def slow_down(request: web.Request) -> web.StreamResponse:
    """503, as S3 says that it has too much to do."""
    await request.read()
    return error(503, "SlowDown")


async def error_in_a_200(request: web.Request) -> web.StreamResponse:
    """S3 has sent its 200 long before it finds that it cannot complete."""
    await request.read()
    return error(200, "InternalError")


async def hang(request: web.Request) -> web.StreamResponse:
    """Take everything and never answer."""
    await request.read()
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def hang_unread(_request: web.Request) -> web.StreamResponse:
    """Do not even read the body."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def reset(request: web.Request) -> web.StreamResponse:
    """Cut the connection in the middle."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def once(fault: Fault) -> Fault:
    """The fault at the first request only."""
    left = [fault]

    async def first_only(request: web.Request) -> web.StreamResponse | None:
        return await left.pop()(request) if left else None

    return first_only


@dataclass
class Gate:
    """A fault that holds requests until the test opens it; then they go on."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _request: web.Request) -> web.StreamResponse | None:
        self.reached.set()
        await self.opened.wait()
        return None
