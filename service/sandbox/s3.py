"""An S3 server of the sandbox's own: rclone over a folder, own port, own keys, ends with us."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from service.sandbox.binaries import Binary, find_rclone
from service.sandbox.children import Program, open_server
from service.sandbox.state import SandboxError, kept_secret, made_folder

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.literals import BucketLocationConstraintType


@dataclass(frozen=True)
class S3Server:
    """Where an S3 server is, and who we are to it."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str


@asynccontextmanager
async def open_s3(
    state_dir: Path, *, bucket: str = "autos", port: int | None = None
) -> AsyncIterator[S3Server]:
    """Start a server over `s3/` in the state folder, with the bucket in it, and yield where it is.

    Args:
        state_dir: made when missing.
        bucket: made when missing; buckets are folders.
        port: of 127.0.0.1; a free one when None.

    Raises:
        SandboxError: no rclone to be found, the port is taken, or it does not start; says why.
    """
    state_dir = made_folder(state_dir)
    binary = find_rclone()
    folder = state_dir / "s3"
    made_folder(folder / bucket)
    access_key = kept_secret(state_dir / "s3.access-key", lambda: f"AUTOS{secrets.token_hex(8).upper()}")
    secret_key = kept_secret(state_dir / "s3.secret-key", partial(secrets.token_hex, 20))
    program_at = partial(_program, binary, folder, f"{access_key},{secret_key}")
    async with open_server(program_at, ready=_is_ready, port=port) as chosen:
        yield S3Server(f"http://127.0.0.1:{chosen}", access_key, secret_key, "us-east-1")


def _program(binary: Binary, folder: Path, auth_key: str, port: int) -> Program:
    address = f"127.0.0.1:{port}"
    return Program(
        name="S3 (rclone)",
        command=[str(binary.path), "serve", "s3", "--config", "/dev/null", "--addr", address, str(folder)],
        # The keys in the environment, because everybody on the machine can read a command line; quoted,
        # because rclone reads a list from there.
        environ={"RCLONE_AUTH_KEY": f'"{auth_key}"', "HOME": str(folder.parent), "PATH": os.defpath},
        cwd=folder.parent,
        log=folder.parent / "s3.log",
    )


async def _is_ready(port: int) -> bool:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
    return True


async def make_bucket(server: S3Server, bucket: str, *, session_token: str | None = None) -> None:
    """Make the bucket on a server given by URL, unless it is there.

    Raises:
        SandboxError: the server does not answer, or refuses.
    """
    config = AioConfig(connect_timeout=3, read_timeout=15, retries={"mode": "standard"})
    client = aioboto3.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        aws_session_token=session_token,
        region_name=server.region,
        config=config,
    )
    try:
        async with client as s3:
            await _create_bucket(s3, bucket, server.region)
    except (ClientError, BotoCoreError) as error:
        raise SandboxError(f"no bucket {bucket!r} at {server.endpoint_url}: {error}") from error


async def _create_bucket(s3: "S3Client", bucket: str, region: str) -> None:
    with suppress(ClientError):
        await s3.head_bucket(Bucket=bucket)
        return
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        # The first region of S3 is the one that must not be named.
        if region == "us-east-1":
            await s3.create_bucket(Bucket=bucket)
        else:
            constraint = cast("BucketLocationConstraintType", region)
            await s3.create_bucket(
                Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": constraint}
            )
