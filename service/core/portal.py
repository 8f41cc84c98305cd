"""The portal's client: reads a process, opens a document, and never trusts an answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import aiohttp
import orjson
from yarl import URL

from service import __version__
from service.core import cnj, media, metrics
from service.core.errors import (
    BadContentError,
    PortalError,
    PortalUnauthorizedError,
    PortalUnavailableError,
    ProcessNotFoundError,
    RefusedError,
)
from service.core.portal_answers import error_in_content, error_of
from service.core.portal_records import ProcessRecord, read_process
from service.core.settings import Settings
from service.core.telemetry import Calls
from service.core.token_source import TokenSource

_CONNECT_TIMEOUT_S = 5.0
# Whole answers, and the beginning of a document: three silences as long as one read may be.
_READS_PER_ANSWER = 3
_MOST_JSON_BYTES = 32 * 1024 * 1024
_MOST_TEXT_BYTES = 8 * 1024 * 1024
_MOST_ERROR_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 3
_HEAD_BYTES = 4096
_CHUNK_BYTES = 256 * 1024

_CALLS = Calls(
    "portal",
    requests=metrics.PORTAL_REQUESTS,
    failures=metrics.PORTAL_FAILURES,
    seconds=metrics.PORTAL_SECONDS,
    reason_of=lambda error: error.code if isinstance(error, PortalError) else None,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DocumentStream:
    """A document on its way; `chunks` gives the whole body once.

    Attributes:
        media_type: what the first bytes are, `extension` the suffix for it without a dot.
        declared_type: what the answer's header says, if anything.
        declared_bytes: the length by the answer's header, if any; the body had that length when it ended.
    """

    media_type: str
    extension: str
    declared_type: str | None
    declared_bytes: int | None
    chunks: AsyncIterator[bytes]


class Portal:
    """The API under one base URL. Paths are built from number and uuid; its links are never followed."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings, tokens: TokenSource) -> None:
        self._session = session
        self._base = URL(settings.portal_url)
        self._tokens = tokens
        self._redirect_hosts = frozenset(host.lower() for host in settings.portal_redirect_hosts)
        self._min_bytes_per_s = settings.portal_min_bytes_per_s
        self._rate_window_s = settings.portal_read_timeout_s / 2
        self._answer_timeout_s = settings.portal_read_timeout_s * _READS_PER_ANSWER

    async def read_process(self, number: str) -> ProcessRecord:
        """Return what the portal says of the process with these 20 digits.

        Raises:
            PortalError: of the kind that the answer stands for.
        """
        path = f"processos/{cnj.mask(number)}"
        with _CALLS.of("read_process"):
            body = await self._with_token(lambda token: self._read_answer(path, token))
            if error := error_in_content(body[:_HEAD_BYTES], size=len(body)):
                raise error
            return read_process(_only_process(body), number)

    @asynccontextmanager
    async def open_document(self, number: str, uuid: UUID) -> AsyncIterator[DocumentStream]:
        """Open the body of one document, after a look at its beginning.

        What goes wrong inside the block is the caller's own and passes as it is.

        Raises:
            PortalError: at opening or while the chunks are read.
        """
        path = f"processos/{cnj.mask(number)}/documentos/{uuid}/binario"
        with ExitStack() as stack:
            with _CALLS.of("open_document"):
                response, head = await self._with_token(lambda token: self._begin(path, token, stack))
                if not head:
                    raise BadContentError("the portal answered with an empty document")
                if error := error_in_content(head, size=response.content_length):
                    raise error
            async with aclosing(self._chunks(response, head)) as chunks:
                yield _stream(response, head, chunks)

    async def read_text(self, number: str, uuid: UUID) -> str:
        """Return the text that the portal has of a document, up to 8 MiB of it.

        Raises:
            ProcessNotFoundError: it has none, which says nothing of the document itself.
            PortalError: of the kind that the answer stands for; `too_large`.
        """
        path = f"processos/{cnj.mask(number)}/documentos/{uuid}/texto"
        with _CALLS.of("read_text"):
            return await self._with_token(lambda token: self._read_text(path, token))

    async def _with_token(self, ask: Callable[[str | None], Awaitable[T]]) -> T:
        """Call `ask` with the token, and once more with another one when the portal refuses the first.

        Waiting for a token stands outside of `ask`, whose time-outs are there for the portal alone.
        """
        token = await self._tokens.bearer()
        try:
            return await ask(token)
        except PortalUnauthorizedError:
            if token is None or not await self._tokens.refused(token):
                raise
        return await ask(await self._tokens.bearer())

    async def _read_answer(self, path: str, token: str | None) -> bytes:
        with ExitStack() as stack, _passing_errors():
            async with asyncio.timeout(self._answer_timeout_s):
                return await _read(await self._get(path, token, stack), _MOST_JSON_BYTES)

    async def _read_text(self, path: str, token: str | None) -> str:
        with ExitStack() as stack, _passing_errors():
            async with asyncio.timeout(self._answer_timeout_s):
                response = await self._get(path, token, stack)
                body = await _read_beginning(response, _MOST_TEXT_BYTES + 1)
        if len(body) > _MOST_TEXT_BYTES:
            raise RefusedError("the text is too large", code="too_large")
        if error := error_in_content(body[:_HEAD_BYTES], size=len(body)):
            raise error
        return _decoded(body, response.charset)

    async def _begin(
        self, path: str, token: str | None, stack: ExitStack
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        with _passing_errors():
            async with asyncio.timeout(self._answer_timeout_s):
                response = await self._get(path, token, stack)
                return response, await _read_beginning(response, _HEAD_BYTES)

    async def _chunks(self, response: aiohttp.ClientResponse, head: bytes) -> AsyncGenerator[bytes, None]:
        with _CALLS.of("receive_document"):
            yield head
            received = len(head)
            pace = _Pace(self._min_bytes_per_s, self._rate_window_s)
            while chunk := await pace.read(response.content):
                received += len(chunk)
                yield chunk
            if response.content_length not in (None, received):
                raise PortalUnavailableError("the portal cut the document short")

    async def _get(self, path: str, token: str | None, stack: ExitStack) -> aiohttp.ClientResponse:
        """Return the 200 after at most three checked redirects; other answers are raised as errors.

        The stack closes every response, so that a connection with an unread body is not used again.
        """
        url = self._base / path
        for _ in range(_MOST_REDIRECTS + 1):
            response = await self._session.get(url, headers=self._headers(url, token), allow_redirects=False)
            stack.callback(response.close)
            if response.status == 200:
                _refuse_encoded(response)
                return response
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                body = await _read_beginning(response, _MOST_ERROR_BYTES)
                raise self._error_at(url, response, body)
            url = self._redirected(url, location)
        raise RefusedError("the portal redirected too often", code="bad_redirect")

    def _headers(self, url: URL, token: str | None) -> dict[str, str]:
        # Decided at every hop: a host that a redirect leads to must not see the token.
        if token is None or url.origin() != self._base.origin():
            return {}
        return {"Authorization": f"Bearer {token}"}

    def _error_at(self, url: URL, response: aiohttp.ClientResponse, body: bytes) -> PortalError:
        error = error_of(response.status, response.headers, body)
        if isinstance(error, PortalUnauthorizedError) and url.origin() != self._base.origin():
            # That host never saw the token: its refusal says nothing of it.
            return PortalUnavailableError("the place that the portal redirected to refused us")
        return error

    def _redirected(self, url: URL, location: str) -> URL:
        try:
            target = url.join(URL(location))
            if target.raw_user is None and target.raw_password is None and self._may_lead_to(target):
                return target
        except ValueError:  # no URL at all
            pass
        raise RefusedError("the portal redirected to a place that is not allowed", code="bad_redirect")

    def _may_lead_to(self, url: URL) -> bool:
        if url.origin() == self._base.origin():
            return True
        return url.scheme in {"https", self._base.scheme} and url.host in self._redirect_hosts


class _Pace:
    """Reads a body and refuses one that drips, which keeps every time-out for a single read quiet.

    Only our waiting counts: while S3 is slow, it is not the portal that dawdles.
    """

    def __init__(self, min_bytes_per_s: int, window_s: float) -> None:
        self._min_bytes_per_s = min_bytes_per_s
        self._window_s = window_s
        self._received = 0
        self._waited_s = 0.0

    async def read(self, content: aiohttp.StreamReader) -> bytes:
        """Return the next bytes, or none at the end of the body."""
        begun = time.monotonic()
        with _passing_errors():
            chunk = await content.read(_CHUNK_BYTES)
        self._waited_s += time.monotonic() - begun
        self._received += len(chunk)
        if chunk and self._waited_s > self._window_s:
            if self._received < self._min_bytes_per_s * self._waited_s:
                raise PortalUnavailableError("the portal sent the document too slowly")
            self._received, self._waited_s = 0, 0.0
        return chunk


@asynccontextmanager
async def open_portal(settings: Settings, tokens: TokenSource) -> AsyncIterator[Portal]:
    """Open the client of this process; the token is asked of its source for each request."""
    timeout = aiohttp.ClientTimeout(
        total=None,
        # There are always connections to be had, so this bounds DNS, TCP and TLS together.
        connect=_CONNECT_TIMEOUT_S,
        sock_connect=_CONNECT_TIMEOUT_S,
        sock_read=settings.portal_read_timeout_s,
    )
    headers = {
        "User-Agent": f"Autos/{__version__}",
        "Accept": "application/json, */*",
        "Accept-Encoding": "identity",
    }
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=timeout,
        headers=headers,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    ) as session:
        yield Portal(session, settings, tokens)


@contextmanager
def _passing_errors() -> Iterator[None]:
    """Name what the network does to us. The cause is left out: its text may hold an address with a query."""
    try:
        yield
    except TimeoutError:
        raise PortalUnavailableError("the portal did not answer in time") from None
    except (aiohttp.ClientError, OSError) as error:
        raise PortalUnavailableError(f"no answer from the portal ({type(error).__name__})") from None


def _stream(response: aiohttp.ClientResponse, head: bytes, chunks: AsyncIterator[bytes]) -> DocumentStream:
    declared = response.headers.get("Content-Type")
    media_type = media.sniff(head, declared=declared, name=None)
    return DocumentStream(
        media_type=media_type,
        extension=media.extension(media_type),
        declared_type=declared,
        declared_bytes=response.content_length,
        chunks=chunks,
    )


def _only_process(body: bytes) -> object:
    """Documented as an array of one; a bare object has been seen too."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadContentError("the portal described the process in no JSON") from None
    if not isinstance(value, list):
        return value
    if not value:
        raise ProcessNotFoundError("the portal has no such process")
    if len(value) > 1:
        # Reading the first alone could lose the documents of the others in silence.
        raise BadContentError("the portal described several processes in place of one")
    return value[0]


def _decoded(body: bytes, charset: str | None) -> str:
    try:
        return body.decode(charset or "utf-8", errors="replace")
    except LookupError:  # no encoding that Python knows
        return body.decode("utf-8", errors="replace")


def _refuse_encoded(response: aiohttp.ClientResponse) -> None:
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise BadContentError("the portal sent a compressed body that was not asked for")


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > most:
            raise BadContentError("the portal's answer is too large")
    return bytes(body)


async def _read_beginning(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read so many bytes, or the whole of a shorter body."""
    beginning = bytearray()
    while len(beginning) < most and (chunk := await response.content.read(most - len(beginning))):
        beginning += chunk
    return bytes(beginning)
