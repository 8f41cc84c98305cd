"""PostgreSQL, Redis and S3 for a sandbox: each by URL when the environment gives one, else its own."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from service.sandbox.postgres import open_postgres
from service.sandbox.redis import open_redis
from service.sandbox.s3 import S3Server, make_bucket, open_s3
from service.sandbox.state import SandboxError

__all__ = ["Backends", "S3Server", "open_backends", "open_postgres", "open_redis", "open_s3"]

_S3_VARIABLES = (
    "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION",
)  # fmt: skip


@dataclass(frozen=True)
class Backends:
    """The three servers that Autos works with.

    Attributes:
        session_token: goes with the keys of an S3 server given by URL, when they are temporary ones.
    """

    database_url: str
    redis_url: str
    s3: S3Server
    session_token: str | None = None

    def environ(self, caller: Mapping[str, str]) -> dict[str, str]:
        """Return the caller's environment with the variables that lead to these servers.

        The caller's own S3 keys are for other servers, and so they do not stay.
        """
        kept = {name: value for name, value in caller.items() if name not in (*_S3_VARIABLES, "AWS_PROFILE")}
        token = {"AWS_SESSION_TOKEN": self.session_token} if self.session_token else {}
        return (
            kept
            | token
            | {
                "DATABASE_URL": self.database_url,
                "REDIS_URL": self.redis_url,
                "AWS_ENDPOINT_URL_S3": self.s3.endpoint_url,
                "AWS_ACCESS_KEY_ID": self.s3.access_key,
                "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
                "AWS_REGION": self.s3.region,
            }
        )


@asynccontextmanager
async def open_backends(state_dir: Path, environ: Mapping[str, str]) -> AsyncIterator[Backends]:
    """Yield the servers that DATABASE_URL, REDIS_URL and AWS_ENDPOINT_URL_S3 name; own ones for the rest.

    The bucket (AUTOS_BUCKET, else `autos`) is there.

    Raises:
        SandboxError: a server is missing or does not start, or the S3 keys are not given with its URL.
    """
    bucket = environ.get("AUTOS_BUCKET") or "autos"
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        s3, token = _given_s3(environ), environ.get("AWS_SESSION_TOKEN")
        yield Backends(
            environ.get("DATABASE_URL", "") or await start(open_postgres(state_dir)),
            environ.get("REDIS_URL", "") or await start(open_redis(state_dir)),
            await _with_bucket(s3, bucket, token) if s3 else await start(open_s3(state_dir, bucket=bucket)),
            token if s3 else None,
        )


async def _with_bucket(s3: S3Server, bucket: str, token: str | None) -> S3Server:
    await make_bucket(s3, bucket, session_token=token)
    return s3


def _given_s3(environ: Mapping[str, str]) -> S3Server | None:
    endpoint_url = environ.get("AWS_ENDPOINT_URL_S3")
    if not endpoint_url:
        return None
    try:
        keys = environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"]
    except KeyError as missing:
        raise SandboxError(f"AWS_ENDPOINT_URL_S3 is set and {missing.args[0]} is not") from None
    return S3Server(endpoint_url, *keys, environ.get("AWS_REGION") or "us-east-1")
