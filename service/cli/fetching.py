"""Bringing one document into a folder: resumed where it was cut, and kept only when its bytes are right."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import aiohttp
from yarl import URL

from service.cli.api import Api, lost
from service.cli.errors import CallError
from service.cli.part_file import PartFile, is_there, open_part

WAITS_S = (0.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Before each try; the first time something may simply be out of date."""

# Wrong bytes can be what an earlier run has left, or a store's mistake; not for ever.
_MOST_WRONG = 3
_CHUNK_BYTES = 256 * 1024
# A try that takes longer than this is given up, and the next one goes on where it ended.
_TRY_S = 60.0
_SLOWEST_BYTES_PER_S = 16 * 1024
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
# What S3 and its kin answer for a link that has expired, or was signed with keys that are no more.
_LINK_IS_OVER = frozenset({400, 401, 403, 404, 410})


@dataclass(frozen=True, slots=True)
class Wanted:
    """A document that is to be saved.

    Attributes:
        file_name: safe on every system.
        sha256: in hexadecimal.
        link: one that needs no key, if there is one already.
    """

    id: UUID
    file_name: str
    size_bytes: int
    sha256: str
    link: str | None = field(repr=False)


class _TryAgainError(Exception):
    """This try came to nothing; the message says why, and nothing of where."""


class _LinkIsOverError(_TryAgainError):
    """Another link may work."""


class _WrongBytesError(_TryAgainError):
    """What came is not the document."""


async def save(
    api: Api,
    wanted: Wanted,
    folder: Path,
    *,
    on_size: Callable[[int], None],
    waits_s: Sequence[float] = WAITS_S,
) -> bool:
    """Bring a document into the folder; False when it was there already.

    Args:
        on_size: told how many bytes of it are there, whenever that changes.

    Raises:
        CallError: it could not be had; the message says why.
        OSError: the file cannot be written.
    """
    target = folder / wanted.file_name
    if await asyncio.to_thread(is_there, target, wanted.size_bytes, wanted.sha256):
        on_size(wanted.size_bytes)
        return False
    with open_part(target) as part:
        await asyncio.to_thread(part.read_again)
        await _complete(api, wanted, part, on_size, waits_s)
        part.move_to(target)
    return True


async def _complete(
    api: Api, wanted: Wanted, part: PartFile, on_size: Callable[[int], None], waits_s: Sequence[float]
) -> None:
    """Receive until the file is right."""
    link, reason, wrong = wanted.link, "", 0
    for wait_s in waits_s:
        await asyncio.sleep(wait_s)
        try:
            if part.size_bytes < wanted.size_bytes:
                link = link or await api.link(wanted.id)
                async with aclosing(_receive(api.session, link, wanted, part)) as sizes:
                    # Not told within: what telling raises is no failure of the store's.
                    async for size_bytes in sizes:
                        on_size(size_bytes)
            if part.is_right(wanted.size_bytes, wanted.sha256):
                return
            _refuse(part, wanted)
        except _TryAgainError as error:
            reason = str(error)
            link = None if isinstance(error, _LinkIsOverError) else link
            wrong += isinstance(error, _WrongBytesError)
        if wrong == _MOST_WRONG:
            break
    raise CallError(reason)


def _refuse(part: PartFile, wanted: Wanted) -> None:
    if part.size_bytes < wanted.size_bytes:
        raise _TryAgainError(f"{part.size_bytes} of {wanted.size_bytes} bytes came")
    part.clear()
    raise _WrongBytesError("its bytes are not those that it should have")


async def _receive(
    session: aiohttp.ClientSession, link: str, wanted: Wanted, part: PartFile
) -> AsyncGenerator[int, None]:
    """Ask for what is still missing and write it, never more than the document has; yield what is there."""
    within_s = _TRY_S + (wanted.size_bytes - part.size_bytes) / _SLOWEST_BYTES_PER_S
    async with _opened(session, link, part.size_bytes, within_s=within_s) as response:
        if not _goes_on(response, part, wanted):
            part.clear()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            if part.size_bytes + len(chunk) > wanted.size_bytes:
                part.clear()
                raise _WrongBytesError(f"more than its {wanted.size_bytes} bytes came")
            part.write(chunk)
            yield part.size_bytes


@asynccontextmanager
async def _opened(
    session: aiohttp.ClientSession, link: str, start: int, *, within_s: float
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Ask for the bytes from `start` on. The link is in no error: whoever has it has the document."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        async with (
            asyncio.timeout(within_s),
            session.get(_url(link), headers=headers, allow_redirects=False) as response,
        ):
            yield response
    except TimeoutError:
        raise _TryAgainError("the store did not send it in time") from None
    except (aiohttp.ClientError, ConnectionError) as error:
        raise _TryAgainError(f"the store did not send it: {lost(error)}") from None


def _url(link: str) -> URL:
    try:
        # It is signed as it stands: encoding it again would break the signature.
        url = URL(link, encoded=True)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise _LinkIsOverError("its link is none")
    return url


def _goes_on(response: aiohttp.ClientResponse, part: PartFile, wanted: Wanted) -> bool:
    """Whether the answer goes on where the file ends; False when it begins anew.

    Raises:
        _TryAgainError: it is neither.
    """
    said = response.headers.get("Content-Range", "")
    # Some stores (rclone's among them) send a part as 200; without a range it is the whole.
    if response.status == 200 and not said:
        return False
    found = _RANGE.fullmatch(said) if response.status in (200, 206) else None
    if found and int(found[1]) == part.size_bytes and found[2] in ("*", str(wanted.size_bytes)):
        return True
    if response.status in (200, 206, 416):
        part.clear()
        raise _TryAgainError("the store sent another part than was asked for")
    if response.status in _LINK_IS_OVER:
        raise _LinkIsOverError(f"the store refused the link ({response.status})")
    raise _TryAgainError(f"the store answered {response.status}")
