"""The S3 client: tuned, opened once a process, its errors given our own name."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials, AioRefreshableCredentials
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError
from botocore.handlers import add_expect_header

from service import __version__
from service.core import metrics
from service.core.errors import StorageUnavailableError
from service.core.presign import Credentials
from service.core.settings import Settings
from service.core.telemetry import Calls

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

S3_ERRORS = (ClientError, BotoCoreError, aiohttp.ClientError, OSError, TimeoutError, RuntimeError)
"""Everything that an S3 which is away, silent or broken can raise. RuntimeError is aiobotocore's word for
credentials that had expired when they came, and uvloop's for a connection that was cut under a write."""

_SPARE_CONNECTIONS = 8
_SLOWEST_BYTES_PER_S = 256 * 1024
_RENEW_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long we wait for S3, in seconds.

    Attributes:
        connect_s: for one connection.
        read_s: for the first byte of an answer, and between two bytes; a call tries three times.
        call_s: for a whole call with its tries; bytes that are sent are given time on top.
        check_s: for the answer to "are you there".
        finish_s: for what must end though its caller was cancelled.
    """

    connect_s: float = 3.0
    read_s: float = 15.0
    call_s: float = 45.0
    check_s: float = 2.0
    finish_s: float = 10.0


PATIENCE = Patience()


def endpoint_url(settings: Settings) -> str:
    """Return where S3 is."""
    return settings.s3_endpoint_url or f"https://s3.{settings.aws_region}.amazonaws.com"


@asynccontextmanager
async def open_client(
    settings: Settings, patience: Patience
) -> AsyncIterator[tuple["S3Client", AioCredentials]]:
    """Open the client of this process; yields it with the credentials that it signs with.

    Raises:
        StorageUnavailableError: there are no credentials, neither in the settings nor on this machine.
    """
    session = AioSession()
    credentials = await _find_credentials(session, settings)
    client = aioboto3.Session(botocore_session=session).client(
        "s3",
        region_name=settings.aws_region,
        endpoint_url=settings.s3_endpoint_url or None,
        config=_config(settings, patience),
    )
    async with client as s3:
        _make_cheaper(s3)
        yield s3, credentials


async def _find_credentials(session: AioSession, settings: Settings) -> AioCredentials:
    if settings.aws_access_key_id and settings.aws_secret_access_key:
        token = settings.aws_session_token
        session.set_credentials(
            settings.aws_access_key_id,
            settings.aws_secret_access_key.get_secret_value(),
            token.get_secret_value() if token else None,
        )
    async with calling("credentials", within_s=30):
        credentials: AioCredentials | None = await session.get_credentials()
    if credentials is None:
        raise StorageUnavailableError(
            "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return credentials


def _config(settings: Settings, patience: Patience) -> AioConfig:
    return AioConfig(
        connect_timeout=patience.connect_s,
        read_timeout=patience.read_s,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=settings.downloads_per_worker + _SPARE_CONNECTIONS,
        signature_version="s3v4",
        s3={"addressing_style": "path", "payload_signing_enabled": False},
        # Checksums are ours: without these two botocore reads every body once more.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent=f"autos/{__version__}",
    )


def _make_cheaper(s3: "S3Client") -> None:
    # Waiting for "100 Continue" is a round trip for every object.
    s3.meta.events.unregister("before-call.s3", add_expect_header)
    # The rules that find the endpoint are cached by their arguments. The key is one of them although no
    # rule reads it, and it is new each time (botocore issue 3528): a fifth of the cost of a small PUT.
    for name in ("PutObject", "HeadObject", "DeleteObject", "CreateMultipartUpload"):
        parameters = s3.meta.service_model.operation_model(name).context_parameters
        parameters[:] = [parameter for parameter in parameters if parameter.name != "Key"]


class Signer:
    """The credentials for links, at hand without waiting.

    Attributes:
        credentials: those of now.
    """

    def __init__(self, source: AioCredentials, credentials: Credentials) -> None:
        self._source = source
        self.credentials = credentials

    async def renew(self) -> None:
        """Ask for the present credentials; what we have is kept when none are given."""
        try:
            self.credentials = await _frozen(self._source)
        except StorageUnavailableError as error:
            log.warning("S3 credentials not renewed: %s", error)
        except Exception:
            # Whatever it was: without the next try, links would be signed with what has expired.
            log.exception("S3 credentials not renewed")

    async def renew_for_ever(self, *, every_s: float) -> None:
        """Renew them long before they expire (the source does so itself when asked in time)."""
        while True:
            await asyncio.sleep(every_s)
            await self.renew()


@asynccontextmanager
async def open_signer(source: AioCredentials, *, every_s: float = _RENEW_S) -> AsyncIterator[Signer]:
    """Resolve the credentials, and keep them fresh if they are of a kind that expires."""
    signer = Signer(source, await _frozen(source))
    if not isinstance(source, AioRefreshableCredentials):
        yield signer
        return
    renewing = asyncio.create_task(signer.renew_for_ever(every_s=every_s))
    try:
        yield signer
    finally:
        renewing.cancel()
        await asyncio.wait({renewing})


async def _frozen(source: AioCredentials) -> Credentials:
    async with calling("credentials", within_s=30):
        frozen = await source.get_frozen_credentials()
    if not frozen.access_key or not frozen.secret_key:
        raise StorageUnavailableError("the credentials for S3 are empty")
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


@asynccontextmanager
async def calling(operation: str, *, within_s: float, size_bytes: int = 0) -> AsyncIterator[None]:
    """Give every error of S3 our own name, and the call an end.

    The client's own read time-out starts when a body is sent: a store that stops reading is caught here.

    Args:
        within_s: for the whole call; `size_bytes` sent on the way are given time on top.

    Raises:
        StorageUnavailableError: says what failed, and nothing of where or with what.
    """
    with _CALLS.of(operation):
        try:
            async with asyncio.timeout(within_s + size_bytes / _SLOWEST_BYTES_PER_S):
                yield
        except S3_ERRORS as error:
            raise StorageUnavailableError(f"S3 {operation}: {error_code(error)}") from error


def _reason_of(error: Exception) -> str | None:
    """Name the kind of failure; that an object is not there is one, though it may have been expected."""
    cause = error.__cause__
    if not isinstance(error, StorageUnavailableError):
        return None
    if isinstance(cause, ClientError):
        return _kind_of_status(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    is_silent = isinstance(cause, TimeoutError | ConnectTimeoutError | ReadTimeoutError)
    return "timeout" if is_silent else "connection"


def _kind_of_status(status: int) -> str:
    match status:
        case 404:
            return "missing"
        case 429 | 503:
            return "throttled"
        case _ if status >= 500:
            return "server"
        case _:
            return "refused"


_CALLS = Calls(
    "s3",
    requests=metrics.S3_REQUESTS,
    failures=metrics.S3_FAILURES,
    seconds=metrics.S3_SECONDS,
    reason_of=_reason_of,
)


def error_code(error: BaseException) -> str:
    """Return what S3 calls the error, or the error's own kind when S3 did not speak."""
    if not isinstance(error, ClientError):
        return type(error).__name__
    # A stranger's text: only what can be a code is passed on.
    code = re.sub(r"[^A-Za-z0-9]", "", str(error.response.get("Error", {}).get("Code", "")))[:40]
    return code or type(error).__name__
