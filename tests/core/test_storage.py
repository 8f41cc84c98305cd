"""Documents streamed into real S3 servers, and into one that misbehaves."""

import asyncio
import hashlib
import json
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.core.errors import BadContentError, RefusedError, StorageUnavailableError
from service.core.multipart import FREE_BYTES, ByteBudget, part_sizes, read_parts
from service.core.s3_client import Patience, calling, open_signer
from service.core.storage import Storage, StoredObject, Version, open_storage
from service.core.structured import finish, one_error_group
from service.sandbox.s3 import S3Server
from tests.core.s3_servers import (
    KINDS,
    Fault,
    FaultyS3,
    Gate,
    error_in_a_200,
    hang,
    hang_unread,
    once,
    open_faulty_s3,
    open_server,
    reset,
    s3_settings,
    slow_down,
)
from tests.s3 import open_client

KIB = 1024
MIB = 1024 * KIB
PART = 64 * KIB
KEY = "processes/10035792220258260564/6b1d1c4e/1-1-1.pdf"
MANY = 10**12
IMPATIENT = Patience(connect_s=0.5, read_s=0.2, call_s=0.6, check_s=0.5, finish_s=0.5)


@pytest.fixture(scope="module", params=KINDS)
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[S3Server]:
    """Each of the real servers."""
    async with open_server(request.param, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


@pytest.fixture
async def storage(server: S3Server) -> AsyncIterator[Storage]:
    """A storage with small parts, so that few bytes make a large document; it must leave nothing behind."""
    async with _open(server, upload_part_bytes=PART) as opened:
        await opened.ensure_bucket()
        yield opened


@pytest.fixture(scope="module")
async def versioned(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Storage]:
    """A bucket that keeps every version."""
    enabled: Any = {"Status": "Enabled"}
    async with (
        open_server("moto", tmp_path_factory.mktemp("versioned")) as server,
        _open(server, bucket="versioned") as opened,
        open_client(s3_settings(server)) as s3,
    ):
        await opened.ensure_bucket()
        await s3.put_bucket_versioning(Bucket="versioned", VersioningConfiguration=enabled)
        yield opened


@pytest.fixture
async def faulty() -> AsyncIterator[FaultyS3]:
    """A server that does what the test tells it to."""
    async with open_faulty_s3() as s3:
        yield s3


@asynccontextmanager
async def _open(
    server: S3Server, *, patience: Patience | None = None, **changes: Any
) -> AsyncIterator[Storage]:
    before = _other_tasks()
    async with open_storage(s3_settings(server, **changes), patience=patience or Patience()) as storage:
        yield storage
        assert storage.budget.free_bytes == s3_settings(server, **changes).upload_buffer_bytes
    await asyncio.sleep(0)  # the loop closes a test's abandoned generator of chunks in a task of its own
    assert _other_tasks() - before == set()


def _other_tasks() -> set[asyncio.Task[Any]]:
    # The servers of this file live in the same loop, one task a connection.
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return {task for task in tasks if "RequestHandler" not in repr(task.get_coro())}


@asynccontextmanager
async def _open_impatient(faulty: FaultyS3) -> AsyncIterator[Storage]:
    async with _open(faulty.server, patience=IMPATIENT, upload_part_bytes=PART) as storage:
        yield storage


def _bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def _chunks(data: bytes, step: int = 10_000) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), step):
        yield data[start : start + step]
        await asyncio.sleep(0)


async def _store(storage: Storage, chunks: AsyncIterator[bytes], **changes: Any) -> StoredObject:
    options = {"media_type": "application/pdf", "expected_bytes": None, "max_bytes": MANY, **changes}
    return await storage.store(options.pop("key", KEY), chunks, **options)


async def _read(storage: Storage, key: str = KEY) -> bytes:
    answer = await storage._s3.get_object(Bucket=storage._bucket, Key=key)
    return await answer["Body"].read()


async def _nothing_is_left(storage: Storage, key: str = KEY) -> bool:
    uploads = await storage._s3.list_multipart_uploads(Bucket=storage._bucket)
    return not uploads.get("Uploads") and not await storage.exists(key)


# What goes in --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 21, PART - 1, PART, PART + 1, 2 * PART, 5 * PART + 17, 2 * MIB])
@pytest.mark.parametrize("step", [999, 10 * MIB])
async def test_a_document_arrives_whole_whatever_its_size(storage: Storage, size: int, step: int) -> None:
    data = _bytes(size)
    told: list[int] = []
    stored = await _store(storage, _chunks(data, step), expected_bytes=size or None, on_bytes=told.append)
    assert stored == StoredObject(KEY, size, hashlib.sha256(data).digest())
    assert await _read(storage) == data
    assert sum(told) == size
    await storage.delete(KEY)


async def test_documents_of_undeclared_size_keep_their_media_type(storage: Storage) -> None:
    for size in (10, 3 * PART):
        await _store(storage, _chunks(_bytes(size)), media_type="text/rtf")
        answer = await storage._s3.head_object(Bucket=storage._bucket, Key=KEY)
        assert (answer["ContentType"], answer["ContentLength"]) == ("text/rtf", size)
    await storage.delete(KEY)


@pytest.mark.parametrize("size", [100, PART, 4 * PART + 1])
@pytest.mark.parametrize("difference", [-1, 1])
async def test_a_size_other_than_declared_is_refused(storage: Storage, size: int, difference: int) -> None:
    with pytest.raises(BadContentError):
        await _store(storage, _chunks(_bytes(size)), expected_bytes=size + difference)
    assert await _nothing_is_left(storage)


@pytest.mark.parametrize("max_bytes", [100, 3 * PART])
async def test_a_document_that_grows_too_large_is_cut_while_it_comes(
    storage: Storage, max_bytes: int
) -> None:
    told: list[int] = []
    with pytest.raises(RefusedError) as refused:
        await _store(storage, _chunks(_bytes(9 * PART)), max_bytes=max_bytes, on_bytes=told.append)
    assert refused.value.code == "too_large"
    assert sum(told) <= max_bytes
    assert await _nothing_is_left(storage)


async def test_a_size_declared_too_large_is_refused_before_a_byte_is_read(storage: Storage) -> None:
    chunks = _chunks(b"never read")
    with pytest.raises(RefusedError):
        await _store(storage, chunks, expected_bytes=101, max_bytes=100)
    assert await anext(chunks) == b"never read"


@pytest.mark.parametrize("size", [100, 4 * PART])
@pytest.mark.parametrize(
    "error", [OSError("cut"), BadContentError("shell"), ExceptionGroup("two", [OSError()])]
)
async def test_an_error_of_the_download_passes_through_as_it_is(
    storage: Storage, size: int, error: Exception
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in _chunks(_bytes(size)):
            yield chunk
        raise error

    with pytest.raises(type(error)) as raised:
        await _store(storage, broken())
    assert raised.value is error
    assert await _nothing_is_left(storage)


async def test_an_object_exists_until_it_is_deleted(storage: Storage) -> None:
    assert not await storage.exists(KEY)
    await storage.delete(KEY)
    await _store(storage, _chunks(b"x"))
    assert await storage.exists(KEY)
    await storage.delete(KEY)
    assert not await storage.exists(KEY)


async def test_a_missing_bucket_is_noticed_and_made(server: S3Server) -> None:
    async with _open(server, bucket="another-bucket") as storage:
        with pytest.raises(StorageUnavailableError):
            await storage.check()
        await storage.ensure_bucket()
        await storage.ensure_bucket()
        await storage.check()


async def test_a_bucket_is_made_in_the_region_of_the_settings(server: S3Server) -> None:
    async with _open(server, bucket="bucket-elsewhere", aws_region="sa-east-1") as storage:
        await storage.ensure_bucket()
        await storage.check()


@pytest.mark.parametrize("seed", range(4))
async def test_a_cancel_at_any_moment_leaves_neither_upload_nor_task(storage: Storage, seed: int) -> None:
    chance = random.Random(seed)
    data = _bytes(3 * PART + 5)
    usual_s = [await _seconds_to_store(storage, data) for _ in range(3)][-1]
    before = asyncio.all_tasks()
    cancelled = 0
    for number in range(75):
        try:
            async with asyncio.timeout(chance.uniform(0, usual_s)):
                # Not as measured at first: a machine that was busy then may be so no more.
                usual_s = await _seconds_to_store(storage, data, key=f"cancelled/{number}")
        except TimeoutError:
            cancelled += 1
        assert asyncio.all_tasks() - before == set()
    assert cancelled > 5
    await storage.delete(KEY)
    uploads = await storage._s3.list_multipart_uploads(Bucket=storage._bucket)
    assert not uploads.get("Uploads")


async def _seconds_to_store(storage: Storage, data: bytes, *, key: str = KEY) -> float:
    started = asyncio.get_running_loop().time()
    async with aclosing(_chunks(data)) as chunks:  # or the garbage collector would, in a task of its own
        await _store(storage, chunks, key=key)
    return asyncio.get_running_loop().time() - started


async def test_many_large_documents_share_a_budget_smaller_than_one_part_each(server: S3Server) -> None:
    async with _open(server, upload_part_bytes=PART, upload_buffer_bytes=2 * PART) as storage:
        await storage.ensure_bucket()
        data = _bytes(5 * PART + 3)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(_store(storage, _chunks(data), key=f"shared/{number}"))
        for number in range(20):
            assert await _read(storage, f"shared/{number}") == data


async def test_a_part_larger_than_the_whole_budget_still_goes_up(server: S3Server) -> None:
    async with _open(server, upload_part_bytes=2 * MIB, upload_buffer_bytes=MIB) as storage:
        await storage.ensure_bucket()
        data = _bytes(5 * MIB)
        async with asyncio.timeout(60):
            await _store(storage, _chunks(data))
        assert await _read(storage) == data
        await storage.delete(KEY)


TIB = MIB * MIB


def test_ten_thousand_parts_are_always_enough() -> None:
    assert set(islice(part_sizes(8 * MIB, 4096 * MIB), 10_000)) == {8 * MIB}
    assert 5 * TIB <= sum(islice(part_sizes(8 * MIB, 5 * TIB), 10_000)) < 6 * TIB
    assert sum(islice(part_sizes(8 * MIB, None), 10_000)) >= 5 * TIB
    assert set(islice(part_sizes(8 * MIB, None), 1000)) == {8 * MIB}


# The budget ----------------------------------------------------------------------------------------


async def _reserved(budget: ByteBudget, size: int, order: list[int]) -> None:
    await budget.reserve(size)
    order.append(size)


async def _waiting(budget: ByteBudget, sizes: list[int], order: list[int]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(_reserved(budget, size, order)) for size in sizes]
    await asyncio.sleep(0)
    return tasks


async def test_who_asks_first_is_served_first_even_if_he_wants_more() -> None:
    budget, order = ByteBudget(10), list[int]()
    await budget.reserve(8)
    tasks = await _waiting(budget, [9, 1, 2], order)
    assert order == []
    budget.release(8)
    await asyncio.gather(*tasks[:2])
    assert order == [9, 1]
    budget.release(9)
    await tasks[2]
    assert budget.free_bytes == 7


async def test_one_who_gives_up_lets_the_next_ones_pass() -> None:
    budget, order = ByteBudget(10), list[int]()
    await budget.reserve(5)
    tasks = await _waiting(budget, [9, 4], order)
    tasks[0].cancel()
    async with asyncio.timeout(5):
        await tasks[1]
    assert (order, budget.free_bytes) == ([4], 1)


async def test_bytes_granted_in_the_moment_of_a_cancel_come_back() -> None:
    budget, order = ByteBudget(10), list[int]()
    await budget.reserve(10)
    (task,) = await _waiting(budget, [9], order)
    budget.release(10)
    task.cancel()
    await asyncio.wait({task})
    assert (order, budget.free_bytes) == ([], 10)


async def test_a_small_document_never_waits_for_the_budget(faulty: FaultyS3) -> None:
    async with _open(faulty.server) as storage:
        held = await storage.budget.reserve(MANY)
        await _store(storage, _chunks(_bytes(FREE_BYTES)))
        large = asyncio.create_task(_store(storage, _chunks(_bytes(FREE_BYTES + 1)), key="large"))
        while not storage.budget._waiting:
            await asyncio.sleep(0)
        assert not large.done()
        storage.budget.release(held)
        await large


async def test_memory_is_reserved_before_the_document_is_read_on() -> None:
    budget = ByteBudget(PART)
    held = await budget.reserve(PART)
    chunks = _chunks(_bytes(3 * PART), step=PART)
    async with aclosing(read_parts(chunks, sizes=part_sizes(PART, None), budget=budget)) as parts:
        first = await anext(parts)
        second = asyncio.create_task(anext(parts))
        while not budget._waiting:
            await asyncio.sleep(0)
        assert len(await anext(chunks)) == PART  # the third, that nobody has read yet
        budget.release(held)
        for part in (first, await second):
            assert len(part) == PART
            part.release()
    assert budget.free_bytes == PART


# When S3 misbehaves --------------------------------------------------------------------------------

FAULTS = (slow_down, hang, hang_unread, reset)


@pytest.mark.parametrize("fault", [*FAULTS, error_in_a_200])
async def test_a_small_document_that_s3_does_not_take_can_be_tried_again(
    faulty: FaultyS3, fault: Fault
) -> None:
    faulty.faults["put"] = fault
    async with _open_impatient(faulty) as storage:
        with pytest.raises(StorageUnavailableError) as raised:
            await _store(storage, _chunks(b"x" * 1000))
        _tells_no_secret(raised.value, faulty)
    assert faulty.objects == {}


@pytest.mark.parametrize(
    ("operation", "fault"),
    [("part", fault) for fault in FAULTS] + [("complete", fault) for fault in (*FAULTS, error_in_a_200)],
)
async def test_an_upload_that_fails_is_aborted_after_its_parts_have_ended(
    faulty: FaultyS3, operation: str, fault: Fault
) -> None:
    sending_at_abort: list[int] = []

    async def count_parts(_request: web.Request) -> None:
        sending_at_abort.append(sum("Upload._send" in repr(task) for task in asyncio.all_tasks()))

    faulty.faults = {operation: fault, "abort": count_parts}
    async with _open_impatient(faulty) as storage:
        with pytest.raises(StorageUnavailableError) as raised:
            await _store(storage, _chunks(_bytes(6 * PART)))
        _tells_no_secret(raised.value, faulty)
    assert (faulty.uploads, faulty.objects) == ({}, {})
    assert sending_at_abort == [0]


def _tells_no_secret(error: StorageUnavailableError, faulty: FaultyS3) -> None:
    for secret in (faulty.endpoint_url, "127.0.0.1", KEY, "ACCESSKEY", "secret", "court-files"):
        assert secret not in str(error)


async def test_a_fault_that_passes_is_not_noticed(faulty: FaultyS3) -> None:
    data = _bytes(4 * PART + 9)
    faulty.faults = {name: once(slow_down) for name in ("create", "complete")} | {"part": once(reset)}
    async with _open(faulty.server, upload_part_bytes=PART) as storage:
        await _store(storage, _chunks(data))
    assert list(faulty.objects.values()) == [data]
    assert faulty.calls == {"create": 2, "part": 6, "complete": 2}


async def test_s3s_own_word_for_the_error_is_passed_on(faulty: FaultyS3) -> None:
    faulty.faults["put"] = slow_down
    async with _open(faulty.server) as storage:
        with pytest.raises(StorageUnavailableError, match=r"^S3 put_object: SlowDown$"):
            await _store(storage, _chunks(b"x"))
    assert faulty.calls["put"] == 1 + 3  # signed by hand, and then the three tries of the library


async def test_a_part_that_fails_ends_the_download_even_when_the_portal_is_silent(faulty: FaultyS3) -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield _bytes(2 * PART)
        await asyncio.Event().wait()

    faulty.faults["part"] = slow_down
    async with _open_impatient(faulty) as storage:
        with pytest.raises(StorageUnavailableError):
            await _store(storage, silent())
    assert faulty.uploads == {}


@pytest.mark.parametrize("operation", ["create", "part", "complete"])
async def test_a_cancel_while_s3_thinks_leaves_no_upload(faulty: FaultyS3, operation: str) -> None:
    faulty.faults[operation] = gate = Gate()
    async with _open(faulty.server, upload_part_bytes=PART) as storage:
        storing = asyncio.create_task(_store(storage, _chunks(_bytes(3 * PART))))
        await gate.reached.wait()
        storing.cancel()
        asyncio.get_running_loop().call_soon(gate.opened.set)
        with pytest.raises(asyncio.CancelledError):
            await storing
    assert faulty.uploads == {}
    assert faulty.calls["abort"] == 1


async def test_a_second_cancel_does_not_stop_the_abort(faulty: FaultyS3) -> None:
    faulty.faults = {"part": (sending := Gate()), "abort": (gate := Gate())}
    async with _open(faulty.server, upload_part_bytes=PART) as storage:
        storing = asyncio.create_task(_store(storage, _chunks(_bytes(3 * PART))))
        await sending.reached.wait()
        storing.cancel()
        await gate.reached.wait()
        storing.cancel()
        for _ in range(50):
            await asyncio.sleep(0)
        assert not storing.done()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await storing
    assert faulty.uploads == {}


@pytest.mark.parametrize("operation", ["create", "abort"])
async def test_a_store_that_never_answers_cannot_hold_a_cancelled_task(
    faulty: FaultyS3, operation: str
) -> None:
    cancelled_at = Gate()
    others: dict[str, Fault] = {"part": cancelled_at, "abort": hang}
    faulty.faults = {"create": cancelled_at} if operation == "create" else others
    only_the_end_is_short = Patience(connect_s=30, read_s=30, call_s=30, check_s=30, finish_s=0.1)
    async with (
        asyncio.timeout(20),
        _open(faulty.server, patience=only_the_end_is_short, upload_part_bytes=PART) as storage,
    ):
        storing = asyncio.create_task(_store(storage, _chunks(_bytes(3 * PART))))
        await cancelled_at.reached.wait()
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
    assert faulty.calls["abort"] == (operation == "abort")


async def test_a_cancel_is_not_lost_in_a_failure_of_the_same_moment() -> None:
    async def fail(parent: asyncio.Task[Any]) -> None:
        parent.cancel()
        raise StorageUnavailableError

    async def work() -> None:
        async with one_error_group() as group:
            parent = asyncio.current_task()
            assert parent is not None
            group.create_task(fail(parent))
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())


async def test_an_upload_without_an_id_is_refused(faulty: FaultyS3) -> None:
    async def no_id(_request: web.Request) -> web.Response:
        return web.Response(text="<InitiateMultipartUploadResult/>", content_type="application/xml")

    faulty.faults["create"] = no_id
    async with _open_impatient(faulty) as storage:
        with pytest.raises(StorageUnavailableError):
            await _store(storage, _chunks(_bytes(3 * PART)))
    assert faulty.calls == {"create": 1}


async def test_work_that_must_end_gets_only_so_long_after_a_cancel() -> None:
    forever = asyncio.create_task(finish(asyncio.sleep(3600), grace_s=0.01))
    await asyncio.sleep(0)
    forever.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forever


async def test_a_store_that_is_not_there_fails_the_check_and_not_the_start() -> None:
    nowhere = S3Server("http://127.0.0.1:1", "NOBODYSKEY", "nobodys-secret", "us-east-1")
    async with _open(nowhere, patience=IMPATIENT) as storage:
        for asking in (storage.check(), storage.ensure_bucket(), storage.delete("x"), storage.exists("x")):
            with pytest.raises(StorageUnavailableError):
                await asking


# Credentials ---------------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which botocore finds no credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


async def test_no_credentials_anywhere_is_said_at_the_start(
    faulty: FaultyS3, bare: pytest.MonkeyPatch
) -> None:
    settings = s3_settings(faulty.server, aws_access_key_id=None)
    with pytest.raises(StorageUnavailableError, match="AWS_ACCESS_KEY_ID"):
        async with open_storage(settings):
            pass


@asynccontextmanager
async def _credential_server(
    lasts: Callable[[], timedelta] = lambda: timedelta(minutes=1),
) -> AsyncIterator[tuple[str, Callable[[], int]]]:
    """What a container asks for its credentials; they expire within the minute, each answer is another."""
    asked: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request)
        return web.json_response(
            {
                "AccessKeyId": f"AS{len(asked)}",
                "SecretAccessKey": "invented",
                "Token": f"token-{len(asked)}",
                "Expiration": (datetime.now(UTC) + lasts()).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )

    app = web.Application()
    app.router.add_get("/credentials", answer)
    server = TestServer(app)
    await server.start_server()
    try:
        yield str(server.make_url("/credentials")), lambda: len(asked)
    finally:
        await server.close()


async def test_links_carry_the_token_of_the_machines_own_credentials(
    faulty: FaultyS3, bare: pytest.MonkeyPatch
) -> None:
    async with _credential_server() as (url, asked):
        bare.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        async with _open(faulty.server, aws_access_key_id=None) as storage:
            link = storage.presign(KEY, filename="a.pdf", now=datetime.now(UTC))
            assert f"X-Amz-Security-Token=token-{asked()}" in link
            await _store(storage, _chunks(b"x"))
    assert list(faulty.objects.values()) == [b"x"]


async def test_credentials_that_expire_are_renewed(bare: pytest.MonkeyPatch) -> None:
    async with _credential_server() as (url, asked):
        bare.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        source = await _found_credentials()
        async with asyncio.timeout(10), open_signer(source, every_s=0.001) as signer:
            first = signer.credentials
            while signer.credentials == first:
                await asyncio.sleep(0)
            assert signer.credentials.access_key == f"AS{asked()}"


async def test_credentials_are_kept_while_new_ones_cannot_be_had(bare: pytest.MonkeyPatch) -> None:
    async with AsyncExitStack() as stack:
        url, _ = await stack.enter_async_context(_credential_server())
        bare.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        source = await _found_credentials()
        async with open_signer(source) as signer:
            kept = signer.credentials
            await stack.aclose()
            await signer.renew()
            assert signer.credentials == kept


async def test_credentials_that_have_expired_as_they_come_end_nothing_for_good(
    bare: pytest.MonkeyPatch,
) -> None:
    """A clock that stepped, or what the machine's own service kept for too long."""
    lasts = [timedelta(minutes=1)]
    async with _credential_server(lambda: lasts[-1]) as (url, asked):
        bare.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        source = await _found_credentials()
        async with asyncio.timeout(10), open_signer(source, every_s=0.001) as signer:
            lasts.append(-lasts[0])
            with pytest.raises(StorageUnavailableError):
                async with calling("put_object", within_s=5):
                    await source.get_frozen_credentials()
            before = asked()
            while asked() < before + 3:
                await asyncio.sleep(0)
            lasts.append(lasts[0])
            kept = signer.credentials
            while signer.credentials == kept:
                await asyncio.sleep(0)


async def _found_credentials() -> AioCredentials:
    source = await AioSession().get_credentials()
    assert source is not None
    return source


# Memory --------------------------------------------------------------------------------------------

_STREAM = """
import asyncio, json, resource, sys
from service.core.storage import open_storage
from service.sandbox.s3 import S3Server
from tests.core.s3_servers import s3_settings

def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def chunks(count):
    piece = bytes(64 * 1024)
    for _ in range(count):
        yield piece + b""
        await asyncio.sleep(0)

async def main(server, size):
    async with open_storage(s3_settings(server)) as storage:
        for key, count in (("warm", 1), ("large", size // 65536)):
            before = peak_kib()
            await storage.store(key, chunks(count), media_type="application/pdf",
                                expected_bytes=None, max_bytes=1 << 40)
    print(json.dumps((peak_kib() - before) / 1024))

asyncio.run(main(S3Server(*json.loads(sys.argv[1])), int(sys.argv[2])))
"""


async def test_memory_does_not_grow_with_the_document(tmp_path: Path) -> None:
    async with open_server("rclone", tmp_path) as server:
        arguments = json.dumps([server.endpoint_url, server.access_key, server.secret_key, server.region])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _STREAM,
            arguments,
            str(256 * MIB),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(output) < 40


async def test_all_that_is_below_a_prefix_is_listed_whether_the_store_knows_versions_or_not(
    storage: Storage,
) -> None:
    await _store(storage, _chunks(b"xy"))
    found = [one async for page in storage.list_versions(KEY.rpartition("/")[0]) for one in page]
    assert {one.key for one in found} == {KEY}
    await storage.delete_versions(found[:1])
    assert not [one async for page in storage.list_versions(KEY) for one in page]


@pytest.mark.parametrize("is_versioned", [False, True])
async def test_who_may_delete_no_version_deletes_without_an_id_where_there_are_none(
    is_versioned: bool, faulty: FaultyS3
) -> None:
    asked: list[bool] = []

    async def delete(request: web.Request) -> web.Response:
        asked.append(b"<VersionId>null</VersionId>" in await request.read())
        denied = f"<Error><Key>{KEY}</Key><Code>AccessDenied</Code></Error>" if asked[-1] else ""
        return web.Response(text=f"<DeleteResult>{denied}</DeleteResult>", content_type="application/xml")

    async def versioning(_request: web.Request) -> web.Response:
        status = "<Status>Suspended</Status>" if is_versioned else ""
        text = f"<VersioningConfiguration>{status}</VersioningConfiguration>"
        return web.Response(text=text, content_type="application/xml")

    faulty.faults = {"complete": delete, "other": versioning}
    async with _open(faulty.server) as storage:
        if is_versioned:
            with pytest.raises(StorageUnavailableError, match="1 of 1 were not deleted"):
                await storage.delete_versions([Version(KEY, "null")])
            assert asked == [True]
        else:
            await storage.delete_versions([Version(KEY, "null")])
            assert asked == [True, False]


async def test_what_was_stored_before_versions_were_kept_goes_for_good(
    tmp_path: Path,
) -> None:
    enabled: Any = {"Status": "Enabled"}
    async with (
        open_server("moto", tmp_path) as server,
        _open(server) as storage,
        open_client(s3_settings(server)) as s3,
    ):
        await storage.ensure_bucket()
        await _store(storage, _chunks(b"x"))
        await s3.put_bucket_versioning(Bucket="court-files", VersioningConfiguration=enabled)
        found = [one async for page in storage.list_versions(KEY) for one in page]
        await storage.delete_versions(found[:1])
        assert not [one async for page in storage.list_versions(KEY) for one in page]


async def test_every_version_goes_and_every_mark_of_a_deletion_with_it(versioned: Storage) -> None:
    for body in (b"first", b"second"):
        await _store(versioned, _chunks(body))
    await versioned.delete(KEY)  # hides them
    assert [one async for page in versioned.list_objects(KEY) for one in page] == []
    found = [one async for page in versioned.list_versions(KEY) for one in page]
    assert len({one.id for one in found}) == 3
    await versioned.delete_versions(found)
    assert not [one async for page in versioned.list_versions(KEY) for one in page]
