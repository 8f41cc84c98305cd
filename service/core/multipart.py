"""Large documents on their way to S3: read into parts, sent as they fill, never more than a budget of bytes.

Three promises: memory is reserved before the bytes for it are read; a failure or a cancel ends every part
before the upload is aborted; and the upload is always completed or aborted, whenever the cancel comes.
"""

import asyncio
import base64
import logging
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count, repeat
from typing import IO, TYPE_CHECKING, cast

from botocore.exceptions import ClientError

from service.core.crash_points import crash_point
from service.core.errors import StorageUnavailableError
from service.core.s3_client import Patience, calling, error_code
from service.core.s3_encryption import NO_ENCRYPTION, Encryption
from service.core.structured import finish, one_error_group

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

FREE_BYTES = 1024 * 1024
"""What each document may hold without asking: nearly all are smaller, and never wait for a large one."""

_MOST_PARTS = 10_000
_PARTS_OF_ONE_SIZE = 1000
_PARTS_IN_FLIGHT = 2
_PIECE_BYTES = 256 * 1024

log = logging.getLogger(__name__)


class ByteBudget:
    """Bytes that may be in memory at once; who asks first is served first, however much he wants.

    Nobody waits here for ever: a part that was granted its bytes needs no more of them to be sent.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.free_bytes = total_bytes

    async def reserve(self, size_bytes: int) -> int:
        """Wait until the bytes are free and return how many to give back; all there are, if it is more."""
        size_bytes = min(size_bytes, self._total)
        if not self._waiting and size_bytes <= self.free_bytes:
            self.free_bytes -= size_bytes
            return size_bytes
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            # Granted in the very moment of the cancel, or still in the queue and in others' way.
            self.release(size_bytes if turn.done() and not turn.cancelled() else 0)
            raise
        return size_bytes

    def release(self, size_bytes: int) -> None:
        """Give bytes back and serve who waits."""
        self.free_bytes += size_bytes
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if wanted > self.free_bytes:
                    return
                self.free_bytes -= wanted
                turn.set_result(None)
            self._waiting.popleft()


class Part:
    """Consecutive bytes of a document, as a body that botocore takes and aiohttp sends without copies.

    Attributes:
        is_last: no part comes after this one.
    """

    def __init__(self, budget: ByteBudget, capacity: int) -> None:
        self._budget = budget
        self._capacity = capacity
        self._reserved = 0
        self._bytes = bytearray()
        self.is_last = False

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def is_full(self) -> bool:
        """Whether the next byte belongs to another part."""
        return len(self._bytes) >= self._capacity

    async def reserve(self) -> None:
        """Wait for the memory of a whole part, once."""
        if not self._reserved:
            self._reserved = await self._budget.reserve(self._capacity)

    def take(self, data: memoryview) -> memoryview:
        """Copy what fits, and return the rest."""
        fits = self._capacity - len(self._bytes)
        self._bytes += data[:fits]
        return data[fits:]

    def release(self) -> None:
        """Let the bytes go; tracebacks may hold this object long after its upload failed."""
        self._bytes = bytearray()
        self._budget.release(self._reserved)
        self._reserved = 0

    def crc32(self) -> str:
        """The checksum by which S3 refuses bytes that changed on the way, as it wants to read it."""
        return base64.b64encode(zlib.crc32(self._bytes).to_bytes(4, "big")).decode()

    def as_body(self) -> IO[bytes]:
        """The part as what botocore's types call a body; it is asked for `read`, `seek` and its length."""
        # An empty body must be real bytes, since botocore asks bodies whether they are true.
        return cast("IO[bytes]", self if self._bytes else b"")

    def as_payload(self) -> "bytearray | Part":
        """The part as aiohttp sends it: in one piece, unless that would hold the loop up."""
        return self._bytes if len(self._bytes) <= _PIECE_BYTES else self

    def read(self, size: int = -1) -> bytes:
        """Part of botocore's test for bodies; the bytes are sent by iterating."""
        return bytes(self._bytes if size < 0 else self._bytes[:size])

    def seek(self, _offset: int, _whence: int = 0) -> int:
        """Every iteration starts at the first byte, so that a call can be tried again."""
        return 0

    def __aiter__(self) -> AsyncIterator[memoryview]:
        return _Pieces(self._bytes)


class _Pieces(AsyncIterator[memoryview]):
    """Small slices, so that the transport never buffers a whole part."""

    # Not a generator: one that is left half-way would be closed by a task of the loop's own.

    def __init__(self, data: bytearray) -> None:
        self._left = memoryview(data)

    async def __anext__(self) -> memoryview:
        if not self._left:
            raise StopAsyncIteration
        piece, self._left = self._left[:_PIECE_BYTES], self._left[_PIECE_BYTES:]
        return piece


def part_sizes(smallest_bytes: int, document_bytes: int | None) -> Iterator[int]:
    """Yield the size of each part in turn, such that the 10,000 which S3 allows are enough.

    All the same when the size of the document is known; otherwise they grow with it: nobody pays with memory
    for a size that the document might have had.
    """
    if document_bytes is not None:
        return repeat(max(smallest_bytes, -(-document_bytes // _MOST_PARTS)))
    return (smallest_bytes << number // _PARTS_OF_ONE_SIZE for number in count())


async def read_parts(
    chunks: AsyncIterable[bytes], *, sizes: Iterator[int], budget: ByteBudget
) -> AsyncGenerator[Part, None]:
    """Yield the bytes in parts of these sizes, the last one shorter; without any bytes, one empty part.

    A part is yielded when the first byte after it, or the end, has come. It then belongs to the taker, who
    releases it.
    """
    part = Part(budget, next(sizes))
    try:
        async for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                if part.is_full:
                    yield part
                    part = Part(budget, next(sizes))
                    await part.reserve()
                if len(part) + len(rest) > FREE_BYTES:
                    await part.reserve()
                rest = part.take(rest)
        part.is_last = True
        yield part
    except BaseException:
        part.release()
        raise


class Upload:
    """One multipart upload, from its start to its completion or its abort."""

    def __init__(
        self, s3: "S3Client", bucket: str, key: str, patience: Patience, encryption: Encryption
    ) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._key = key
        self._patience = patience
        self._encryption = encryption
        self._id = ""
        self._sent: list[asyncio.Task[CompletedPartTypeDef]] = []
        self._turns = asyncio.Semaphore(_PARTS_IN_FLIGHT)

    async def create(self, media_type: str) -> None:
        """Start it on the store."""
        async with calling("create_multipart_upload", within_s=self._patience.call_s):
            answer = await self._s3.create_multipart_upload(
                Bucket=self._bucket,
                Key=self._key,
                ContentType=media_type,
                ChecksumAlgorithm="CRC32",
                **self._encryption.options,
            )
        self._id = answer.get("UploadId", "")
        if not self._id:
            raise StorageUnavailableError("S3 create_multipart_upload: no upload id")

    async def begin(self, part: Part, group: asyncio.TaskGroup) -> None:
        """Send the next part in the background, once few enough are on their way; releases it in the end."""
        try:
            await self._turns.acquire()
            task = group.create_task(self._send(part, len(self._sent) + 1))
        except BaseException:
            part.release()
            raise
        self._sent.append(task)
        # Not a `finally` in the task: one that is cancelled before its first step never reaches it.
        task.add_done_callback(lambda _: self._ended(part))

    def _ended(self, part: Part) -> None:
        part.release()
        self._turns.release()

    async def _send(self, part: Part, number: int) -> "CompletedPartTypeDef":
        crc32 = part.crc32()
        async with calling("upload_part", within_s=self._patience.call_s, size_bytes=len(part)):
            answer = await self._s3.upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._id,
                PartNumber=number,
                Body=part.as_body(),
                ChecksumCRC32=crc32,
            )
        crash_point("upload.part_sent")
        return {"PartNumber": number, "ETag": answer.get("ETag", ""), "ChecksumCRC32": crc32}

    async def complete(self) -> None:
        """Make the object real of the parts, all of which have arrived."""
        parts = [task.result() for task in self._sent]
        async with calling("complete_multipart_upload", within_s=self._patience.call_s):
            await self._s3.complete_multipart_upload(
                Bucket=self._bucket, Key=self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
            )

    async def abort(self) -> None:
        """Remove it from the store; a store that does not answer keeps it for its own clearing up."""
        if not self._id:
            return
        try:
            async with calling("abort_multipart_upload", within_s=self._patience.finish_s):
                await self._s3.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._id)
        except StorageUnavailableError as error:
            cause = error.__cause__
            is_gone = isinstance(cause, ClientError) and error_code(cause) == "NoSuchUpload"
            if not is_gone:
                log.warning("an upload was left behind: %s", error)


@asynccontextmanager
async def open_upload(
    s3: "S3Client",
    bucket: str,
    key: str,
    *,
    media_type: str,
    patience: Patience,
    encryption: Encryption = NO_ENCRYPTION,
) -> AsyncIterator[tuple[Upload, asyncio.TaskGroup]]:
    """Start an upload and complete it when the block ends well; otherwise nothing is left of it.

    Raises:
        StorageUnavailableError: S3 failed; errors of the block pass through as they are.
    """
    upload = Upload(s3, bucket, key, patience, encryption)
    try:
        # A cancelled create may have been done all the same, and only its answer names the upload.
        await finish(upload.create(media_type), grace_s=patience.finish_s)
        async with one_error_group() as group:
            yield upload, group
        await upload.complete()
    except BaseException:
        await finish(upload.abort(), grace_s=patience.finish_s)
        raise
