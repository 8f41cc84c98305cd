"""A file on its way: written beside its place as `NAME.part`, moved there when its bytes are right."""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.cli.errors import CallError

_READ_BYTES = 1024 * 1024


class PartFile:
    """What has come so far of a file, from its first byte on.

    Attributes:
        size_bytes: how much that is.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        self._path = path
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def read_again(self) -> None:
        """Take up what an earlier try has left."""
        while chunk := self._file.read(_READ_BYTES):
            self._sha256.update(chunk)
            self.size_bytes += len(chunk)

    def write(self, chunk: bytes) -> None:
        """Add what came next."""
        left = memoryview(chunk)
        while left:  # a raw file may take less than it is given
            left = left[self._file.write(left) :]
        self._sha256.update(chunk)
        self.size_bytes += len(chunk)

    def clear(self) -> None:
        """Begin anew."""
        self._file.seek(0)
        self._file.truncate()
        self._sha256, self.size_bytes = hashlib.sha256(), 0

    def is_right(self, size_bytes: int, sha256: str) -> bool:
        """Whether it is whole, and has the bytes that it should have."""
        return self.size_bytes == size_bytes and self._sha256.hexdigest() == sha256

    def move_to(self, target: Path) -> None:
        """Give it its name, in place of whatever has that now."""
        self._path.replace(target)

    def close(self) -> None:
        """Leave it to be taken up another time."""
        self._file.close()


@contextmanager
def open_part(target: Path) -> Iterator[PartFile]:
    """Open what there is of a file beside its place; nobody else writes it meanwhile.

    Raises:
        CallError: another process is writing it.
        OSError: it cannot be written; a link is not followed, wherever it leads.
    """
    path = target.with_name(f"{target.name}.part")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    try:
        _lock(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    part = PartFile(descriptor, path)
    try:
        yield part
    finally:
        part.close()


def _lock(descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "no ordinary file")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CallError("another download is writing it") from None


def is_there(target: Path, size_bytes: int, sha256: str) -> bool:
    """Whether a file is there with these bytes already."""
    if not target.is_file() or target.stat().st_size != size_bytes:
        return False
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
