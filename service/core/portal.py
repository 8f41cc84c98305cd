"""The portal's client: reads a process, opens a document, and never trusts an answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import aiohttp
import orjson
from yarl import URL

from service import __version__
from service.core import cnj, media
from service.core.errors import (
    BadContentError,
    PortalUnavailableError,
    ProcessNotFoundError,
    RefusedError,
)
from service.core.portal_answers import error_in_content, error_of
from service.core.portal_records import ProcessRecord, read_process
from service.core.settings import Settings

_CONNECT_TIMEOUT_S = 5.0
_JSON_TIMEOUT_S = 60.0
_MOST_JSON_BYTES = 32 * 1024 * 1024
_MOST_ERROR_BYTES = 64 * 1024
_MOST_REDIRECTS = 3
_HEAD_BYTES = 4096
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class DocumentStream:
    """A document on its way; `chunks` gives the whole body once, `declared_bytes` what the header says."""

    media_type: str
    extension: str
    declared_bytes: int | None
    chunks: AsyncIterator[bytes]


class Portal:
    """The API under one base URL. Paths are built from number and uuid; its links are never followed."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings) -> None:
        self._session = session
        self._base = URL(settings.portal_url)
        self._token = settings.portal_token
        self._redirect_hosts = frozenset(settings.portal_redirect_hosts)
        self._min_bytes_per_s = settings.portal_min_bytes_per_s
        self._rate_window_s = settings.portal_read_timeout_s / 2

    async def read_process(self, number: str) -> ProcessRecord:
        """Return what the portal says of the process with these 20 digits.

        Raises:
            PortalError: of the kind that the answer stands for.
        """
        path = f"processos/{cnj.mask(number)}"
        async with _passing_errors(), asyncio.timeout(_JSON_TIMEOUT_S), self._open(path) as response:
            body = await _read(response, _MOST_JSON_BYTES)
        if error := error_in_content(response.content_type, body[:_HEAD_BYTES], size=len(body)):
            raise error
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadContentError("the portal described the process in no JSON") from error
        if value == []:
            raise ProcessNotFoundError("the portal has no such process")
        # Documented as an array of one; a bare object has been seen too.
        return read_process(value[0] if isinstance(value, list) else value, number)

    @asynccontextmanager
    async def open_document(self, number: str, uuid: UUID) -> AsyncIterator[DocumentStream]:
        """Open the body of one document, after a look at its beginning.

        Raises:
            PortalError: at opening or while the chunks are read.
        """
        path = f"processos/{cnj.mask(number)}/documentos/{uuid}/binario"
        async with _passing_errors(), self._open(path) as response:
            head = await _read_beginning(response, _HEAD_BYTES)
            if error := error_in_content(response.content_type, head, size=response.content_length):
                raise error
            if not head:
                raise BadContentError("the portal answered with an empty document")
            media_type = media.sniff(head, declared=response.content_type, name=None)
            yield DocumentStream(
                media_type,
                media.extension(media_type),
                response.content_length,
                self._chunks(response, head),
            )

    async def _chunks(self, response: aiohttp.ClientResponse, head: bytes) -> AsyncIterator[bytes]:
        async with _passing_errors():
            received, in_window, waited_s = len(head), 0, 0.0
            yield head
            while True:
                # Only our waiting counts: while S3 is slow, it is not the portal that dawdles.
                begun = time.monotonic()
                chunk = await response.content.read(_CHUNK_BYTES)
                waited_s += time.monotonic() - begun
                if not chunk:
                    break
                received += len(chunk)
                in_window += len(chunk)
                if waited_s > self._rate_window_s:
                    if in_window < self._min_bytes_per_s * waited_s:
                        raise PortalUnavailableError("the portal sent the document too slowly")
                    in_window, waited_s = 0, 0.0
                yield chunk
            if response.content_length not in (None, received):
                raise PortalUnavailableError("the portal cut the document short")

    @asynccontextmanager
    async def _open(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a GET, follow at most three checked redirects, and turn other answers into errors."""
        url = self._base / path
        async with AsyncExitStack() as stack:
            for _ in range(_MOST_REDIRECTS + 1):
                response = await stack.enter_async_context(
                    self._session.get(url, headers=self._headers(url), allow_redirects=False)
                )
                if response.status == 200:
                    if response.headers.get("Content-Encoding", "identity") != "identity":
                        raise BadContentError("the portal sent a compressed body that was not asked for")
                    yield response
                    return
                if not 300 <= response.status < 400:
                    body = await _read_beginning(response, _MOST_ERROR_BYTES)
                    raise error_of(response.status, response.headers, body)
                url = self._checked(url.join(URL(response.headers.get("Location", ""))))
            raise RefusedError("the portal redirected too often", code="bad_redirect")

    def _headers(self, url: URL) -> dict[str, str]:
        # Decided at every hop: a host that a redirect leads to must not see the token.
        if self._token is None or url.origin() != self._base.origin():
            return {}
        return {"Authorization": f"Bearer {self._token.get_secret_value()}"}

    def _checked(self, url: URL) -> URL:
        is_own = url.origin() == self._base.origin()
        if is_own or (url.scheme == "https" and url.host in self._redirect_hosts and not url.user):
            return url
        raise RefusedError("the portal redirected to a place that is not allowed", code="bad_redirect")


@asynccontextmanager
async def open_portal(settings: Settings) -> AsyncIterator[Portal]:
    """Open the client of this process."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=settings.portal_read_timeout_s
    )
    headers = {
        "User-Agent": f"Autos/{__version__}",
        "Accept": "application/json, */*",
        "Accept-Encoding": "identity",
    }
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.downloads_per_worker + settings.jobs_per_worker),
        timeout=timeout,
        headers=headers,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    ) as session:
        yield Portal(session, settings)


@asynccontextmanager
async def _passing_errors() -> AsyncIterator[None]:
    """Name what the network does to us; the messages carry no address and no query."""
    try:
        yield
    except (TimeoutError, aiohttp.ServerTimeoutError) as error:
        raise PortalUnavailableError("the portal did not answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise PortalUnavailableError(f"no answer from the portal ({type(error).__name__})") from error


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > most:
            raise BadContentError("the portal's answer is too large")
    return bytes(body)


async def _read_beginning(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read so many bytes at least, or the whole of a shorter body."""
    beginning = bytearray()
    while len(beginning) < most and (chunk := await response.content.read(most)):
        beginning += chunk
    return bytes(beginning)
