"""S3: documents are streamed into it, links lead out of it."""

import base64
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from service.core import metrics
from service.core.errors import (
    BadContentError,
    ObjectMissingError,
    RefusedError,
    StorageUnavailableError,
)
from service.core.multipart import ByteBudget, Part, open_upload, part_sizes, read_parts
from service.core.presign import presign_get
from service.core.quick_put import QuickPut, open_quick_put
from service.core.s3_client import (
    PATIENCE,
    Patience,
    Signer,
    calling,
    endpoint_url,
    error_code,
    open_client,
    open_signer,
)
from service.core.s3_encryption import Encryption, encryption_of
from service.core.settings import Settings

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.literals import BucketLocationConstraintType
    from types_aiobotocore_s3.type_defs import (
        ListMultipartUploadsOutputTypeDef,
        ListObjectVersionsOutputTypeDef,
        ObjectIdentifierTypeDef,
    )

MOST_AT_ONCE = 1000
"""Objects that one call removes."""

_DEFAULT_REGION = "us-east-1"
_READ_BYTES = 128 * 1024
# What stores answer that know no versions at all.
_HAS_NO_VERSIONS = ("NotImplemented", "MethodNotAllowed")
# The id of what was stored while the bucket kept no versions: for good, or before it began to.
_NULL = "null"


@dataclass(frozen=True)
class StoredObject:
    """An object that is in S3: its key, its size in bytes, and the 32 bytes of its SHA-256."""

    key: str
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True)
class Listed:
    """An object as S3 lists it."""

    key: str
    modified_at: datetime


@dataclass(frozen=True)
class ListedUpload:
    """A multipart upload that has begun and not ended."""

    key: str
    initiated_at: datetime
    upload_id: str


@dataclass(frozen=True)
class Version:
    """One version of an object, or the mark that the object was deleted.

    Attributes:
        id: "null" for what was stored before the bucket kept versions; None for whatever there is to be seen.
    """

    key: str
    id: str | None = None


@asynccontextmanager
async def open_storage(settings: Settings, *, patience: Patience = PATIENCE) -> AsyncIterator["Storage"]:
    """Open the storage of this process: one client, whose connections all documents share.

    Does not ask the store anything: one that is away makes calls fail, not the start.

    Raises:
        StorageUnavailableError: there are no credentials.
    """
    async with (
        open_client(settings, patience) as (s3, credentials),
        open_signer(credentials) as signer,
        open_quick_put(
            endpoint_url(settings),
            settings.bucket,
            region=settings.aws_region,
            patience=patience,
            connections=settings.downloads_per_worker,
            encryption=encryption_of(settings),
        ) as quick_put,
    ):
        yield Storage(s3, signer, quick_put, settings, patience)


class Storage:
    """The bucket of documents.

    Every method that awaits raises `StorageUnavailableError` when S3 fails, which trying again can help.
    """

    def __init__(
        self,
        s3: "S3Client",
        signer: Signer,
        quick_put: QuickPut,
        settings: Settings,
        patience: Patience,
    ) -> None:
        self._s3 = s3
        self._signer = signer
        self._quick_put = quick_put
        self._patience = patience
        self._bucket = settings.bucket
        self._region = settings.aws_region
        self._link_ttl_s = settings.link_ttl_s
        self._encryption = encryption_of(settings)
        self._part_bytes = settings.upload_part_bytes
        self._public_url = settings.s3_public_url or endpoint_url(settings)
        self.budget = ByteBudget(settings.upload_buffer_bytes)

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
        """Stream the bytes into an object; memory does not grow with its size.

        What fits into one part is sent as one object with its SHA-256; more goes up in parts as it comes.
        Nothing becomes real unless all of it was right; a cancel at any moment leaves no upload behind.

        Args:
            key: of this attempt alone, so that no other can write it.
            chunks: what they raise passes through as it is.
            expected_bytes: the size that was declared, or None.
            on_bytes: told the size of each chunk as it comes.

        Raises:
            BadContentError: the size is not the declared one.
            RefusedError: `too_large`, more than `max_bytes`; noticed as early as can be.
            StorageUnavailableError: S3 did not take it.
        """
        document = _Incoming(chunks, expected_bytes, max_bytes, on_bytes)
        sizes = part_sizes(self._part_bytes, expected_bytes)
        async with aclosing(read_parts(document, sizes=sizes, budget=self.budget)) as parts:
            first = await anext(parts)
            if first.is_last:
                await self._put(key, first, document.sha256.digest(), media_type)
            else:
                await self._upload(key, first, parts, media_type)
        metrics.STORED_BYTES.inc(document.size_bytes)
        return StoredObject(key, document.size_bytes, document.sha256.digest())

    async def _put(self, key: str, only: Part, sha256: bytes, media_type: str) -> None:
        try:
            async with calling("put_object", within_s=self._patience.call_s, size_bytes=len(only)):
                if await self._quick_put.put(
                    key, only, sha256=sha256, media_type=media_type, credentials=self._signer.credentials
                ):
                    return
                await self._s3.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=only.as_body(),
                    ContentType=media_type,
                    ChecksumSHA256=base64.b64encode(sha256).decode(),
                    **self._encryption.options,
                )
        finally:
            only.release()

    async def _upload(self, key: str, first: Part, others: AsyncIterator[Part], media_type: str) -> None:
        async with open_upload(
            self._s3,
            self._bucket,
            key,
            media_type=media_type,
            patience=self._patience,
            encryption=self._encryption,
        ) as (upload, group):
            await upload.begin(first, group)
            async for part in others:
                await upload.begin(part, group)

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield an object's bytes in chunks of some 100 KiB; memory holds one of them.

        Raises:
            ObjectMissingError: S3 does not have it; raised before the first chunk.
            StorageUnavailableError: S3 did not answer, or fell silent.
        """
        try:
            async with calling("get_object", within_s=self._patience.call_s):
                answer = await self._s3.get_object(Bucket=self._bucket, Key=key)
        except StorageUnavailableError as error:
            if not _is_missing(error):
                raise
            # A bucket that is not there is a mistake of the operator's, and no object's loss.
            await self.check()
            raise ObjectMissingError("an object is not in S3 any more") from error.__cause__
        body = answer["Body"]
        async with body:
            while True:
                async with calling("get_object_body", within_s=self._patience.call_s):
                    chunk = await body.read(_READ_BYTES)
                if not chunk:
                    return
                yield chunk

    async def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            async with calling("head_object", within_s=self._patience.call_s):
                await self._s3.head_object(Bucket=self._bucket, Key=key)
        except StorageUnavailableError as error:
            if _is_missing(error):
                return False
            raise
        return True

    async def find_encryption(self, key: str) -> Encryption:
        """Return how the store says that it has encrypted an object."""
        async with calling("head_object", within_s=self._patience.call_s):
            answer = await self._s3.head_object(Bucket=self._bucket, Key=key)
        return Encryption(answer.get("ServerSideEncryption"), answer.get("SSEKMSKeyId"))

    async def delete(self, key: str) -> None:
        """Remove the object; one that is not there is no error."""
        async with calling("delete_object", within_s=self._patience.call_s):
            await self._s3.delete_object(Bucket=self._bucket, Key=key)

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Remove up to `MOST_AT_ONCE` objects with one call; those that are not there are no error."""
        await self.delete_versions([Version(key) for key in keys])

    async def delete_versions(self, versions: Sequence[Version]) -> None:
        """Remove up to `MOST_AT_ONCE` versions for good, with one call; those not there are no error."""
        refused = await self._delete(versions)
        # Where no versions are kept, the rights to delete need not reach those that have an id. Where they
        # are, what is deleted without one stays, below a mark.
        if refused and any(one.id == _NULL for one in versions) and not await self._keeps_versions():
            refused = await self._delete([Version(one.key) if one.id == _NULL else one for one in versions])
        if refused:
            raise StorageUnavailableError(f"S3 delete_objects: {refused} of {len(versions)} were not deleted")

    async def _delete(self, versions: Sequence[Version]) -> int:
        """Return how many were refused."""
        named: list[ObjectIdentifierTypeDef] = [
            {"Key": one.key} if one.id is None else {"Key": one.key, "VersionId": one.id} for one in versions
        ]
        async with calling("delete_objects", within_s=self._patience.call_s):
            answer = await self._s3.delete_objects(
                Bucket=self._bucket, Delete={"Objects": named, "Quiet": True}
            )
        return len(answer.get("Errors", ()))

    async def _keeps_versions(self) -> bool:
        """Whether versions are, or were once, kept."""
        async with calling("get_bucket_versioning", within_s=self._patience.call_s):
            return "Status" in await self._s3.get_bucket_versioning(Bucket=self._bucket)

    async def list_versions(self, prefix: str) -> AsyncIterator[list[Version]]:
        """Yield all that there is below a prefix, by the page: each version, then what a plain listing shows.

        A store without versions may refuse to list them, or say that there are none: the second tells then.
        """
        more: dict[str, str] = {}
        while page := await self._page_of_versions(Bucket=self._bucket, Prefix=prefix, **more):
            yield [
                Version(one["Key"], one["VersionId"])
                for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
            ]
            if not page.get("IsTruncated"):
                break
            more = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
        async for listed in self.list_objects(prefix):
            yield [Version(one.key) for one in listed]

    async def _page_of_versions(self, **request: Any) -> "ListObjectVersionsOutputTypeDef | dict[str, Any]":
        try:
            async with calling("list_object_versions", within_s=self._patience.call_s):
                return await self._s3.list_object_versions(**request)
        except StorageUnavailableError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and error_code(cause) in _HAS_NO_VERSIONS:
                return {}
            raise

    async def list_objects(self, prefix: str) -> AsyncIterator[list[Listed]]:
        """Yield the objects below a prefix, a page at a time, in the order of their keys."""
        more: dict[str, str] = {}
        while True:
            async with calling("list_objects_v2", within_s=self._patience.call_s):
                page = await self._s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **more)  # type: ignore[arg-type]
            yield [Listed(one["Key"], one["LastModified"]) for one in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def list_uploads(self, prefix: str) -> AsyncIterator[list[ListedUpload]]:
        """Yield the multipart uploads below a prefix that are neither completed nor aborted, by the page."""
        more: dict[str, str] = {}
        while True:
            page = await self._page_of_uploads(Bucket=self._bucket, Prefix=prefix, **more)
            yield [
                ListedUpload(one["Key"], one["Initiated"], one["UploadId"]) for one in page.get("Uploads", ())
            ]
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    async def _page_of_uploads(self, **request: Any) -> "ListMultipartUploadsOutputTypeDef | dict[str, Any]":
        try:
            async with calling("list_multipart_uploads", within_s=self._patience.call_s):
                return await self._s3.list_multipart_uploads(**request)
        except StorageUnavailableError as error:
            # What some stores (rclone's among them) answer when there are none.
            if isinstance(error.__cause__, ClientError) and error_code(error.__cause__) == "NoSuchUpload":
                return {}
            raise

    async def abort_upload(self, upload: ListedUpload) -> None:
        """Remove an unfinished upload; one that is not there is no error."""
        try:
            async with calling("abort_multipart_upload", within_s=self._patience.call_s):
                await self._s3.abort_multipart_upload(
                    Bucket=self._bucket, Key=upload.key, UploadId=upload.upload_id
                )
        except StorageUnavailableError as error:
            if not _is_missing(error):
                raise

    async def check(self) -> None:
        """Ask S3 for our bucket, within two seconds."""
        async with calling("head_bucket", within_s=self._patience.check_s):
            await self._s3.head_bucket(Bucket=self._bucket)

    async def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        try:
            async with calling("head_bucket", within_s=self._patience.call_s):
                await self._s3.head_bucket(Bucket=self._bucket)
        except StorageUnavailableError as error:
            if not _is_missing(error):
                raise
            await self._create_bucket()

    async def _create_bucket(self) -> None:
        async with calling("create_bucket", within_s=self._patience.call_s):
            with suppress(self._s3.exceptions.BucketAlreadyOwnedByYou):
                # The default region is the one that must not be named.
                if self._region == _DEFAULT_REGION:
                    await self._s3.create_bucket(Bucket=self._bucket)
                else:
                    region = cast("BucketLocationConstraintType", self._region)
                    await self._s3.create_bucket(
                        Bucket=self._bucket, CreateBucketConfiguration={"LocationConstraint": region}
                    )

    def presign(
        self, key: str, *, filename: str, now: datetime, ttl_s: int | None = None, is_shown: bool = False
    ) -> str:
        """Return a link that downloads the object under a name, for a while counted from `now`.

        Asks nobody; the same arguments give the same link.

        Args:
            now: with a time zone.
            ttl_s: `link_ttl_s` of the settings when None.
            is_shown: as in `presign_get`.
        """
        return presign_get(
            self._public_url,
            self._bucket,
            key,
            region=self._region,
            credentials=self._signer.credentials,
            filename=filename,
            now=now,
            ttl_s=ttl_s or self._link_ttl_s,
            is_shown=is_shown,
        )


class _Incoming:
    """A document as it comes: counted, hashed, and cut as soon as it is wrong."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        expected_bytes: int | None,
        max_bytes: int,
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        self._chunks = chunks
        self._expected = expected_bytes
        self._max = max_bytes
        self._on_bytes = on_bytes
        self.size_bytes = 0
        self.sha256 = hashlib.sha256()
        # A size that was declared too large is refused before a byte is read.
        self._refuse_above_max(expected_bytes or 0)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._refuse_other_size(is_whole=True)
            raise
        self.size_bytes += len(chunk)
        self._refuse_above_max(self.size_bytes)
        self._refuse_other_size(is_whole=False)
        self.sha256.update(chunk)
        if self._on_bytes:
            self._on_bytes(len(chunk))
        return chunk

    def _refuse_above_max(self, size_bytes: int) -> None:
        if size_bytes > self._max:
            raise RefusedError(f"the document is larger than {self._max} bytes", code="too_large")

    def _refuse_other_size(self, *, is_whole: bool) -> None:
        if self._expected is None:
            return
        if self.size_bytes > self._expected or (is_whole and self.size_bytes < self._expected):
            raise BadContentError(f"{self._expected} bytes were declared, {self.size_bytes} came")


def _is_missing(error: StorageUnavailableError) -> bool:
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return False
    return cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404
