"""A ZIP archive that is written while it is sent: nothing of it is ever held but the part under way.

Documents are stored, not compressed: most of them are compressed already. Where one is found missing stands a
note, under its name and `.missing.txt`: who has the archive alone sees that it is not all.
"""

import hashlib
import zipfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, cast

from service.core.errors import ObjectMissingError, StorageUnavailableError

_MISSING = (
    b"The file of this document was stored, and was not there any more when this archive was made.\r\n"
    b"Ask for the process again, and it will be fetched again.\r\n"
)
# The years 1980 to 2107 of Brasília, in UTC: a ZIP knows no others, and no zone.
_EARLIEST, _LATEST = datetime(1980, 1, 1, 3), datetime(2108, 1, 1, 2, 59, 58)  # noqa: DTZ001


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive; `open` yields its bytes, or raises `ObjectMissingError` before the first."""

    name: str
    size_bytes: int
    sha256: bytes
    modified_at: datetime | None
    open: Callable[[], AsyncGenerator[bytes, None]]


async def archive(entries: Sequence[Entry]) -> AsyncGenerator[bytes, None]:
    """Yield the archive, a chunk at a time.

    Raises:
        ObjectMissingError: none of the files is there; raised before the first chunk.
        StorageUnavailableError: a file cannot be read, or its bytes are not those that were stored.
    """
    sink, missing = _Sink(), 0
    with zipfile.ZipFile(cast("IO[bytes]", sink), "w", zipfile.ZIP_STORED) as written:
        for entry in entries:
            async with aclosing(_checked(entry)) as chunks:
                try:
                    first = await anext(chunks, b"")
                except ObjectMissingError:
                    missing += 1
                    if missing == len(entries):
                        raise
                    written.writestr(_described(entry, suffix=".missing.txt"), _MISSING)
                    continue
                with written.open(_described(entry), "w", force_zip64=True) as file:
                    file.write(first)
                    yield sink.take()
                    async for chunk in chunks:
                        file.write(chunk)
                        yield sink.take()
    yield sink.take()


async def _checked(entry: Entry) -> AsyncGenerator[bytes, None]:
    sha256, size_bytes = hashlib.sha256(), 0
    async with aclosing(entry.open()) as chunks:
        async for chunk in chunks:
            sha256.update(chunk)
            size_bytes += len(chunk)
            yield chunk
    if size_bytes != entry.size_bytes or sha256.digest() != entry.sha256:
        raise StorageUnavailableError("an object in S3 is not what was stored there")


def _described(entry: Entry, *, suffix: str = "") -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(entry.name + suffix)
    at = entry.modified_at.replace(tzinfo=None) if entry.modified_at else _EARLIEST
    # In Brasília, whose days the court counts by; it has had no summer time since 2019.
    local = min(max(at, _EARLIEST), _LATEST) - timedelta(hours=3)
    info.date_time = local.timetuple()[:6]
    info.external_attr = 0o644 << 16
    return info


class _Sink:
    """Where `zipfile` writes to: it cannot go back, so it writes in order."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken
