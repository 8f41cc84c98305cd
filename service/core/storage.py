"""S3: documents streamed in, links made for callers."""

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from service import __version__
from service.core.errors import BadContentError, RefusedError, StorageUnavailableError
from service.core.presign import Credentials, presign_get
from service.core.settings import Settings

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

_PARTS_IN_FLIGHT = 2
_MOST_PARTS = 10_000
_CLEAN_UP_S = 10.0
_S3_ERRORS = (BotoCoreError, ClientError, aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that is there now; `sha256` is 32 bytes."""

    key: str
    size_bytes: int
    sha256: bytes


class Storage:
    """The bucket, through one client for the whole process."""

    def __init__(self, s3: "S3Client", settings: Settings, credentials: Credentials) -> None:
        self._s3 = s3
        self._bucket = settings.bucket
        self._settings = settings
        self._credentials = credentials
        self._part_bytes = settings.upload_part_bytes
        self._budget = Budget(settings.upload_buffer_bytes)

    async def store(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        media_type: str,
        expected_bytes: int | None,
        max_bytes: int,
        on_bytes: Callable[[int], None] | None = None,
    ) -> StoredObject:
        """Stream a document into an object, which becomes real only when it is whole.

        Args:
            expected_bytes: the size that was announced; another size is refused.
            on_bytes: told of every chunk's size as it arrives.

        Raises:
            BadContentError: another size than expected, or nothing at all.
            RefusedError: more than `max_bytes` (code `too_large`).
            StorageUnavailableError: S3 did not take it.
        """
        body = _Body(chunks, expected_bytes=expected_bytes, max_bytes=max_bytes, on_bytes=on_bytes)
        part_bytes = max(self._part_bytes, -(-(expected_bytes or 0) // (_MOST_PARTS - 1)))
        reserved = min(expected_bytes or part_bytes, part_bytes)
        await self._budget.take(reserved)
        try:
            first = await body.read(part_bytes)
            if body.is_at_end:
                await self._put(key, first, media_type, body.sha256)
                return StoredObject(key, body.size_bytes, body.sha256)
        finally:
            self._budget.give_back(reserved)
        await self._store_in_parts(key, first, body, part_bytes, media_type)
        return StoredObject(key, body.size_bytes, body.sha256)

    async def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            async with _named_errors():
                await self._s3.head_object(Bucket=self._bucket, Key=key)
        except StorageUnavailableError as error:
            if isinstance(error.__cause__, ClientError) and _code(error.__cause__) in ("404", "NoSuchKey"):
                return False
            raise
        return True

    async def delete(self, key: str) -> None:
        """Remove the object, if it is there."""
        async with _named_errors():
            await self._s3.delete_object(Bucket=self._bucket, Key=key)

    async def check(self) -> None:
        """Ask for the bucket; raises `StorageUnavailableError`."""
        async with _named_errors():
            await self._s3.head_bucket(Bucket=self._bucket)

    def presign(self, key: str, *, filename: str, now: datetime, ttl_s: int | None = None) -> str:
        """Return a link to the object as a named attachment, for a while from `now`; no request is made."""
        settings = self._settings
        suffix = "." + key.rpartition(".")[2]
        endpoint = settings.s3_public_url or settings.s3_endpoint_url
        return presign_get(
            endpoint or f"https://s3.{settings.aws_region}.amazonaws.com",
            self._bucket,
            key,
            credentials=self._credentials,
            region=settings.aws_region,
            filename=filename if filename.lower().endswith(suffix) else filename + suffix,
            now=now,
            ttl_s=ttl_s or settings.link_ttl_s,
        )

    async def _put(self, key: str, body: bytes, media_type: str, sha256: bytes) -> None:
        async with _named_errors():
            await self._s3.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=body,
                ContentType=media_type,
                ChecksumSHA256=base64.b64encode(sha256).decode(),
            )

    async def _store_in_parts(
        self, key: str, first: bytes, body: "_Body", part_bytes: int, media_type: str
    ) -> None:
        parts = _Parts(self._s3, self._bucket, key, self._budget)
        await parts.begin(media_type)
        try:
            await self._budget.take(part_bytes)
            await parts.send(first, part_bytes)
            del first
            while not body.is_at_end:
                await self._budget.take(part_bytes)
                data = await _or_give_back(body.read(part_bytes), self._budget, part_bytes)
                await parts.send(data, part_bytes)
                del data
            await parts.complete()
        except BaseException:
            await asyncio.shield(parts.abort())
            raise


class _Body:
    """The chunks of a document, gathered into parts while they are counted, hashed and checked."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        expected_bytes: int | None,
        max_bytes: int,
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        self._chunks = chunks
        self._expected_bytes = expected_bytes
        self._max_bytes = max_bytes
        self._on_bytes = on_bytes
        self._hash = hashlib.sha256()
        self._rest = b""
        self.size_bytes = 0
        self.is_at_end = False

    @property
    def sha256(self) -> bytes:
        """The hash of all that was read."""
        return self._hash.digest()

    async def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end of the body, which is then known to be whole."""
        part = bytearray(self._rest)
        self._rest = b""
        while len(part) <= size:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                self._check_end()
                return bytes(part)
            self._count(chunk)
            part += chunk
        self._rest = bytes(part[size:])
        del part[size:]
        return bytes(part)

    def _count(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        if self.size_bytes > self._max_bytes:
            raise RefusedError("the document is larger than this system may store", code="too_large")
        if self._expected_bytes is not None and self.size_bytes > self._expected_bytes:
            raise BadContentError("the document is larger than announced")
        self._hash.update(chunk)
        if self._on_bytes:
            self._on_bytes(len(chunk))

    def _check_end(self) -> None:
        self.is_at_end = True
        if self.size_bytes == 0:
            raise BadContentError("the document is empty")
        if self._expected_bytes not in (None, self.size_bytes):
            raise BadContentError("the document is shorter than announced")


class _Parts:
    """One multipart upload: parts go up while the next is read, and nothing is left behind."""

    def __init__(self, s3: "S3Client", bucket: str, key: str, budget: "Budget") -> None:
        self._s3 = s3
        self._bucket = bucket
        self._key = key
        self._budget = budget
        self._upload_id = ""
        self._etags: dict[int, str] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._number = 0

    async def begin(self, media_type: str) -> None:
        """Open the upload; a cancel waits for the answer, since an upload without id cannot be aborted."""
        creating = asyncio.ensure_future(self._create(media_type))
        try:
            await asyncio.shield(creating)
        except asyncio.CancelledError:
            with suppress(StorageUnavailableError, TimeoutError):
                await asyncio.wait_for(creating, _CLEAN_UP_S)
                await self.abort()
            raise

    async def send(self, data: bytes, reserved: int) -> None:
        """Send one part in the background, once fewer than two are in flight; its memory is given back."""
        self._number += 1
        task = asyncio.create_task(self._send(self._number, data))
        task.add_done_callback(lambda _: self._budget.give_back(reserved))
        self._in_flight.add(task)
        while len(self._in_flight) >= _PARTS_IN_FLIGHT:
            await self._collect(asyncio.FIRST_COMPLETED)

    async def complete(self) -> None:
        """Make the object real."""
        while self._in_flight:
            await self._collect(asyncio.ALL_COMPLETED)
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())
        ]
        async with _named_errors():
            await self._s3.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": parts},
            )

    async def abort(self) -> None:
        """Cancel what is in flight, wait for it, then take the upload back; a bound keeps this short."""
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        with suppress(StorageUnavailableError, TimeoutError):
            async with asyncio.timeout(_CLEAN_UP_S), _named_errors():
                await self._s3.abort_multipart_upload(
                    Bucket=self._bucket, Key=self._key, UploadId=self._upload_id
                )

    async def _create(self, media_type: str) -> None:
        async with _named_errors():
            answer = await self._s3.create_multipart_upload(
                Bucket=self._bucket, Key=self._key, ContentType=media_type
            )
        self._upload_id = answer["UploadId"]

    async def _send(self, number: int, data: bytes) -> None:
        async with _named_errors():
            answer = await self._s3.upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=io.BytesIO(data),
            )
        self._etags[number] = answer["ETag"]

    async def _collect(self, return_when: str) -> None:
        done, self._in_flight = await asyncio.wait(self._in_flight, return_when=return_when)
        for task in done:
            task.result()


class Budget:
    """Bytes that may be in memory at once; who asks first is served first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    async def take(self, size: int) -> None:
        """Wait until so many bytes are free; more than there are in all counts as all."""
        async with self._turn:
            while self._free < min(size, self._size):
                self._given_back.clear()
                await self._given_back.wait()
            self._free -= min(size, self._size)

    def give_back(self, size: int) -> None:
        """Return what was taken."""
        self._free += min(size, self._size)
        self._given_back.set()


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[Storage]:
    """Open the one client of this process."""
    secret = settings.aws_secret_access_key
    token = settings.aws_session_token
    session = aioboto3.Session(
        aws_access_key_id=settings.aws_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        aws_session_token=token.get_secret_value() if token else None,
        region_name=settings.aws_region,
    )
    config = AioConfig(
        connect_timeout=3,
        read_timeout=15,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=settings.downloads_per_worker + 8,
        s3={"addressing_style": "path", "payload_signing_enabled": False},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent=f"Autos/{__version__}",
    )
    async with session.client("s3", endpoint_url=settings.s3_endpoint_url, config=config) as s3:
        yield Storage(s3, settings, await _credentials(session))


async def _credentials(session: aioboto3.Session) -> Credentials:
    # aioboto3 offers no way to its credentials but through the session it wraps.
    found = await session._session.get_credentials()  # noqa: SLF001
    if found is None:
        raise StorageUnavailableError("no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    frozen = await found.get_frozen_credentials()
    return Credentials(frozen.access_key or "", frozen.secret_key or "", frozen.token)


@asynccontextmanager
async def _named_errors() -> AsyncIterator[None]:
    try:
        yield
    except ClientError as error:
        raise StorageUnavailableError(f"the storage answered {_code(error)}") from error
    except _S3_ERRORS as error:
        raise StorageUnavailableError(f"the storage did not answer ({type(error).__name__})") from error


async def _or_give_back(reading: Awaitable[bytes], budget: Budget, size: int) -> bytes:
    try:
        return await reading
    except BaseException:
        budget.give_back(size)
        raise


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "error"))
