"""What a sandbox keeps in its folder, and the lock that gives the folder to one sandbox at a time."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class SandboxError(Exception):
    """Something the sandbox needs is missing or did not start; the message is for the person who ran it."""


def made_folder(path: Path) -> Path:
    """Make the folder when it is missing and return its absolute path."""
    path.mkdir(parents=True, exist_ok=True)
    return path.absolute()


def kept_secret(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in the file, made on the first call; only the file's owner may read it."""
    if not path.exists():
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(make())
        # Renamed when complete: a sandbox killed in between must not leave half a secret.
        new.rename(path)
    return path.read_text().strip()


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Own a state folder until the end of the block, or of this process, however it ends.

    Raises:
        SandboxError: another sandbox owns it; the message says which process.
    """
    with (made_folder(folder) / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise SandboxError(f"another sandbox (process {owner}) already runs in {folder}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
