"""A Redis (or Valkey) of the sandbox's own: own port, own password, ends with us."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from redis import exceptions
from redis.asyncio import Redis

from service.sandbox.binaries import Binary, find_redis
from service.sandbox.children import Program, open_server
from service.sandbox.state import kept_secret, made_folder


@asynccontextmanager
async def open_redis(state_dir: Path, *, durable: bool = True) -> AsyncIterator[str]:
    """Start a server that never evicts and yield the URL of its database 0.

    Args:
        state_dir: made when missing.
        durable: write every change to a file in the state folder, and begin with what is there.

    Raises:
        SandboxError: no Redis to be found, or it does not start; says why.
    """
    state_dir = made_folder(state_dir)
    binary = find_redis()
    # A folder for each kind and major version: none reads the files of a newer one.
    folder = made_folder(state_dir / binary.label)
    password = kept_secret(state_dir / "redis.password", partial(secrets.token_hex, 16))
    program_at = partial(_program, binary, folder, password, durable)
    async with open_server(program_at, ready=partial(_is_ready, password)) as port:
        yield _url(password, port)


def _program(binary: Binary, folder: Path, password: str, durable: bool, port: int) -> Program:
    # A file, because everybody on the machine can read a command line.
    config = folder / "server.conf"
    config.unlink(missing_ok=True)
    config.touch(mode=0o600)
    config.write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\nmaxmemory-policy noeviction\n"
        f'save ""\nappendonly {"yes" if durable else "no"}\n'
    )
    return Program(
        name="Redis",
        command=[str(binary.path), str(config)],
        environ={"LC_ALL": "C", "PATH": os.defpath},
        cwd=folder,
        log=folder.parent / "redis.log",
    )


def _url(password: str, port: int) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


async def _is_ready(password: str, port: int) -> bool:
    try:
        async with Redis(host="127.0.0.1", port=port, password=password, socket_timeout=2) as client:
            return bool(await client.ping())
    except (exceptions.ConnectionError, exceptions.TimeoutError):
        return False
