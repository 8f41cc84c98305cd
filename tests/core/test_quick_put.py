"""Small objects put by hand: signed as botocore signs, taken by real servers, left to the library in need."""

import base64
import hashlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as TheirCredentials

from service.core.multipart import ByteBudget, Part, read_parts
from service.core.presign import Credentials
from service.core.quick_put import QuickPut, open_quick_put, put_headers
from service.core.s3_client import PATIENCE
from service.core.s3_encryption import Encryption
from service.core.storage import open_storage
from service.sandbox.s3 import S3Server
from tests.core.s3_servers import (
    KINDS,
    Fault,
    error_in_a_200,
    open_faulty_s3,
    open_server,
    s3_settings,
    slow_down,
)

HOSTS = ("127.0.0.1:9000", "s3.sa-east-1.amazonaws.com")
KEY = "processes/10035792220258260564/6b1d1c4e/1-1-1.pdf"


ENCRYPTIONS = (Encryption(), Encryption("AES256"), Encryption("aws:kms", "arn:aws:kms:sa-east-1:1:key/2f-3"))


@pytest.mark.parametrize("encryption", ENCRYPTIONS, ids=lambda one: str(one.algorithm))
@pytest.mark.parametrize("token", [None, "token/with+signs=="])
@pytest.mark.parametrize("host", HOSTS)
def test_the_signature_is_botocores(host: str, token: str | None, encryption: Encryption) -> None:
    body, path = b"%PDF-1.4", f"/court-files/{KEY}"
    digest = hashlib.sha256(body).digest()
    theirs = AWSRequest(
        method="PUT",
        url=f"http://{host}{path}",
        headers={
            "Content-Type": "application/pdf",
            "X-Amz-Checksum-Sha256": base64.b64encode(digest).decode(),
            **encryption.headers,
        },
        data=body,
    )
    who = TheirCredentials("AKINVENTED", "secret/with+signs", token)
    S3SigV4Auth(who, "s3", "sa-east-1").add_auth(theirs)
    moment = datetime.strptime(theirs.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = put_headers(
        host,
        path,
        region="sa-east-1",
        credentials=Credentials("AKINVENTED", "secret/with+signs", token),
        sha256=digest,
        media_type="application/pdf",
        now=moment,
        encryption=encryption,
    )
    assert ours["authorization"] == theirs.headers["Authorization"]
    assert ours["x-amz-content-sha256"] == theirs.headers["X-Amz-Content-SHA256"]


async def _part(data: bytes) -> Part:
    async def chunks() -> AsyncIterator[bytes]:
        yield data

    async for part in read_parts(chunks(), sizes=iter([8 << 20]), budget=ByteBudget(64 << 20)):
        return part
    raise AssertionError("there is always one part")


async def _put(quick_put: QuickPut, server: S3Server, data: bytes, *, sha256: bytes | None = None) -> bool:
    part = await _part(data)
    try:
        return await quick_put.put(
            KEY,
            part,
            sha256=sha256 or hashlib.sha256(data).digest(),
            media_type="application/pdf",
            credentials=Credentials(server.access_key, server.secret_key),
        )
    finally:
        part.release()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 21, 100_000, 3_000_000])
async def test_real_servers_take_it(kind: str, size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = random.Random(size).randbytes(size)
    async with (
        open_server(kind, tmp_path_factory.mktemp(kind)) as server,
        open_storage(s3_settings(server)) as storage,
        open_quick_put(
            server.endpoint_url,
            s3_settings(server).bucket,
            region=server.region,
            patience=PATIENCE,
            connections=2,
        ) as quick_put,
    ):
        await storage.ensure_bucket()
        assert await _put(quick_put, server, data)
        assert b"".join([chunk async for chunk in storage.read(KEY)]) == data


@pytest.mark.parametrize("fault", [slow_down, error_in_a_200])
async def test_what_is_refused_again_and_again_is_left_to_the_library_for_a_while(fault: Fault) -> None:
    async with (
        open_faulty_s3() as faulty,
        open_quick_put(
            faulty.server.endpoint_url, "bucket", region="us-east-1", patience=PATIENCE, connections=2
        ) as quick_put,
    ):
        faulty.faults["put"] = fault
        for calls in (1, 2, 3, 3, 3):
            assert not await _put(quick_put, faulty.server, b"x")
            assert faulty.calls["put"] == calls


async def test_a_store_that_is_not_there_is_left_to_the_library() -> None:
    nowhere = S3Server("http://127.0.0.1:1", "AK", "secret", "us-east-1")
    async with open_quick_put(
        nowhere.endpoint_url, "bucket", region="us-east-1", patience=PATIENCE, connections=2
    ) as quick_put:
        assert not await _put(quick_put, nowhere, b"x")
