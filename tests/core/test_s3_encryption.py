"""Encryption at the store: asked for in every way in which an object is written, and looked at."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from service.checkup.storage import check_storage, judge_encryption
from service.core.settings import Settings
from service.core.storage import Storage, open_storage
from tests.core.s3_servers import open_faulty_s3, open_server, s3_settings

KEY_ID = "arn:aws:kms:us-east-1:123456789012:key/1f0c3a52-2a59-4f1e-a1b2-2e1f5a3c9d10"
PART = 64 * 1024
HEADERS = ("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id")


async def _store(storage: Storage, size: int) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * size

    options: dict[str, Any] = {"media_type": "text/plain", "expected_bytes": size, "max_bytes": size}
    await storage.store(f"processes/{size}", chunks(), **options)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, (None, None)),
        ({"s3_encryption": "AES256"}, ("AES256", None)),
        ({"s3_encryption": "aws:kms"}, ("aws:kms", None)),
        ({"s3_encryption": "aws:kms", "s3_kms_key_id": KEY_ID}, ("aws:kms", KEY_ID)),
    ],
)
async def test_each_way_to_write_an_object_asks_for_it(
    asked: dict[str, str], sent: tuple[str | None, str | None]
) -> None:
    """By hand, by the library (which this server leaves both puts to, having no tag), and in parts."""
    seen: list[tuple[str, tuple[str | None, ...]]] = []

    async def look(request: web.Request) -> None:
        by = "the library" if "boto" in request.headers["User-Agent"].lower() else "hand"
        seen.append((by, tuple(request.headers.get(name) for name in HEADERS)))

    async with open_faulty_s3() as faulty:
        faulty.faults |= {"put": look, "create": look}
        async with open_storage(s3_settings(faulty.server, upload_part_bytes=PART, **asked)) as storage:
            await _store(storage, 10)
            await _store(storage, 2 * PART)
        assert len(faulty.objects) == 2
    assert [headers for _, headers in seen] == [sent] * 3


@pytest.mark.parametrize(
    ("asked", "verdict", "words"),
    [
        ({"s3_encryption": "aws:kms", "s3_kms_key_id": KEY_ID}, "ok", "aws:kms, as asked for"),
        ({"s3_encryption": "aws:kms", "s3_kms_key_id": "alias/autos"}, "ok", "aws:kms, as asked for"),
        ({"s3_encryption": "aws:kms", "s3_kms_key_id": KEY_ID[:-1] + "1"}, "wrong", "another key was used"),
        ({"s3_encryption": "AES256"}, "wrong", "does not say that it encrypts it with AES256"),
        ({}, "ok", "left to the bucket, which says aws:kms of it"),
    ],
)
async def test_the_doctor_holds_what_the_store_says_against_what_it_was_asked_for(
    encrypted: Settings, asked: dict[str, str], verdict: str, words: str
) -> None:
    """The objects are encrypted with a key of ours; the settings ask for one thing or another."""
    settings = encrypted.model_copy(update={"s3_encryption": "none", "s3_kms_key_id": None, **asked})
    async with open_storage(encrypted) as storage:
        finding = await judge_encryption(storage, "processes/10", settings)
    assert (finding.verdict, words in finding.words) == (verdict, True)


@pytest.fixture(scope="module")
async def encrypted() -> AsyncIterator[Settings]:
    """Settings of a store that encrypts, in which there is an object of ten bytes."""
    async with open_server("moto", Path()) as server:
        settings = s3_settings(server, s3_encryption="aws:kms", s3_kms_key_id=KEY_ID)
        async with open_storage(settings) as storage:
            await storage.ensure_bucket()
            await _store(storage, 10)
        yield settings


async def test_a_store_that_encrypts_is_found_well(encrypted: Settings) -> None:
    found = {one.name: (one.verdict, one.words) for one in await check_storage(encrypted)}
    assert found["bucket encryption"] == ("ok", "aws:kms, as asked for")
    assert {verdict for verdict, _ in found.values()} <= {"ok", "warning"}


@pytest.mark.parametrize("encryption", ["none", "AES256"])
def test_a_key_without_a_use_is_refused(encryption: str) -> None:
    with pytest.raises(ValidationError, match="AUTOS_S3_KMS_KEY_ID needs AUTOS_S3_ENCRYPTION=aws:kms"):
        Settings(s3_encryption=encryption, s3_kms_key_id="alias/autos")
