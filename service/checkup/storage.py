"""S3: is the bucket there, may we do with it what we must, and do our links work as callers follow them."""

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import aiohttp
from yarl import URL

from service.checkup.findings import Finding, Findings, ok, warning, wrong
from service.checkup.loopback import is_out_of_sight
from service.core.errors import StorageUnavailableError
from service.core.s3_client import Patience
from service.core.s3_encryption import encryption_of
from service.core.settings import Settings
from service.core.storage import Storage, open_storage

# Below the prefix in which the janitor removes what no row knows: a probe that is left is gone after a day.
PREFIX = "processes/checkup/"
_PATIENCE = Patience(connect_s=2.0, read_s=4.0, call_s=6.0, check_s=4.0, finish_s=2.0)
_LINK_TIMEOUT_S = 6.0
_RIGHTS = "the credentials need the rights to put, get, list and delete objects"


async def check_storage(settings: Settings) -> Findings:
    """Look at the bucket, and store a small object for a moment."""
    try:
        async with open_storage(settings, patience=_PATIENCE) as storage:
            bucket = await _bucket(storage, settings)
            return [bucket] if bucket.verdict == "wrong" else [bucket, *await _probe(storage, settings)]
    except StorageUnavailableError as error:
        return [wrong("bucket", str(error))]


async def _bucket(storage: Storage, settings: Settings) -> Finding:
    try:
        await storage.check()
    except StorageUnavailableError as error:
        if str(error).endswith(": 404"):
            words = f"there is no bucket {settings.bucket}: create it, or correct AUTOS_BUCKET"
        elif str(error).endswith(": 403"):
            words = f"the credentials are refused, or may not see the bucket {settings.bucket}"
        else:
            words = f"S3 does not answer ({error}): is AWS_ENDPOINT_URL_S3 right?"
        return wrong("bucket", words)
    return ok("bucket", f"{settings.bucket} is there")


async def _probe(storage: Storage, settings: Settings) -> Findings:
    key, content = f"{PREFIX}{uuid4()}.bin", secrets.token_bytes(64)
    try:
        await storage.store(
            key, _once(content), media_type="application/octet-stream", expected_bytes=64, max_bytes=64
        )
    except StorageUnavailableError as error:
        return [wrong("bucket write", f"nothing can be stored ({error}): {_RIGHTS}")]
    try:
        link = storage.presign(key, filename="checkup.bin", now=datetime.now(UTC), ttl_s=60)
        found = [
            await _stored(storage, key),
            await judge_encryption(storage, key, settings),
            await _link(link, content, settings),
            await _listing(storage),
        ]
    finally:
        removed = await _removed(storage, key)
    return [*found, removed]


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _stored(storage: Storage, key: str) -> Finding:
    try:
        is_there = await storage.exists(key)
    except StorageUnavailableError as error:
        return wrong("bucket write", f"what was stored cannot be looked at ({error}): {_RIGHTS}")
    if not is_there:
        return wrong("bucket write", "what was stored is not there afterwards: is this really one store?")
    return ok("bucket write", "an object was stored, and is there")


async def judge_encryption(storage: Storage, key: str, settings: Settings) -> Finding:
    """Hold what the store says of an object against what it was asked for.

    That it says so is all that can be known from outside: there are stores that repeat what they were asked.
    """
    asked = encryption_of(settings)
    try:
        found = await storage.find_encryption(key)
    except StorageUnavailableError as error:
        return wrong("bucket encryption", f"it cannot be looked at ({error}): {_RIGHTS}")
    if asked.algorithm is None:
        return ok("bucket encryption", f"left to the bucket, which says {found.algorithm or 'nothing'} of it")
    if found.algorithm != asked.algorithm:
        words = f"the store took an object and does not say that it encrypts it with {asked.algorithm}"
        return wrong("bucket encryption", f"{words}: can it do so? AUTOS_S3_ENCRYPTION asks for it")
    if not _is_same_key(asked.kms_key_id, found.kms_key_id):
        return wrong("bucket encryption", "another key was used than AUTOS_S3_KMS_KEY_ID names")
    return ok("bucket encryption", f"{found.algorithm}, as asked for")


def _is_same_key(asked: str | None, used: str | None) -> bool:
    """Whether a key is the one that was asked for; what an alias stands for cannot be told here."""
    if asked is None or "alias/" in asked:
        return True
    return used is not None and used.rpartition("/")[2] == asked.rpartition("/")[2]


async def _link(link: str, content: bytes, settings: Settings) -> Finding:
    """Follow a link as a caller does, and once more for a part."""
    where = "AUTOS_S3_PUBLIC_URL" if settings.s3_public_url else "AWS_ENDPOINT_URL_S3"
    timeout = aiohttp.ClientTimeout(total=_LINK_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            status, body = await _got(session, link, {})
            part = await _got(session, link, {"Range": "bytes=32-"})
    except (aiohttp.ClientError, OSError) as error:
        if is_out_of_sight(URL(link, encoded=True).host):
            words = f"{where} is the loopback of the machine around this container: follow a link from there"
            return warning("links", words)
        return wrong("links", f"nothing answers where they lead ({type(error).__name__}): is {where} right?")
    if status != 200:
        words = f"the store answers {status}: is {where} the address that the store itself is called by?"
        return wrong("links", words)
    if body != content:
        return wrong("links", f"something else than the object came: does {where} lead to this store?")
    # By its bytes: some stores (rclone's among them) send a part as 200.
    if part[1] != content[32:]:
        return warning("links", "they work, but not for a part (Range): downloads cannot be resumed")
    return ok("links", "a presigned link works, for a part too")


async def _got(session: aiohttp.ClientSession, link: str, headers: dict[str, str]) -> tuple[int, bytes]:
    url = URL(link, encoded=True)
    async with session.get(url, headers=headers, allow_redirects=False) as response:
        return response.status, await response.content.read(1024)


async def _listing(storage: Storage) -> Finding:
    try:
        await anext(aiter(storage.list_objects(PREFIX)))
        await anext(aiter(storage.list_uploads(PREFIX)))
        await anext(aiter(storage.list_versions(PREFIX)))
    except StorageUnavailableError as error:
        words = f"it cannot be listed ({error}): the janitor and erasures need that right"
        return wrong("bucket list", words)
    return ok("bucket list", "objects and uploads can be listed")


async def _removed(storage: Storage, key: str) -> Finding:
    try:
        await storage.delete(key)
        is_there = await storage.exists(key)
    except StorageUnavailableError as error:
        return wrong("bucket delete", f"an object cannot be removed ({error}): {_RIGHTS}")
    if is_there:
        return wrong("bucket delete", f"an object that was removed is still there: {_RIGHTS}")
    return ok("bucket delete", "it was removed again")
