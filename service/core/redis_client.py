"""How Redis is reached: at an address, over TLS, or as the master that Sentinels name.

Everybody connects this way: rings and their listeners, arq, the limits, and the doctor.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.asyncio import ConnectionPool, SentinelConnectionPool
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError

_SENTINEL_PORT = 26379
_OF_SENTINELS = "sentinel_"
# Two that are away are passed over within the time that a ring has.
_SENTINEL_OPTIONS = {
    "socket_connect_timeout": 0.5,
    "socket_timeout": 0.5,
    "retry": Retry(NoBackoff(), 0),
}
_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}


@asynccontextmanager
async def open_redis_pool(
    url: str, *, connect_timeout_s: float = 1.0, timeout_s: float = 2.0
) -> AsyncIterator[ConnectionPool]:
    """Open a pool of connections; Redis itself may be away.

    Args:
        url: `redis://:password@host:port/db`; `rediss://` over TLS, with the server's name checked and
            `?ssl_ca_certs=/path` for an authority of one's own;
            `redis+sentinel://:password@host:port,host:port/master/db` for the master of that name, and
            `rediss+sentinel://` for TLS to it and to the Sentinels. These have a password of their own,
            `?sentinel_password=…` (and `sentinel_username`), or none.

    Raises:
        ValueError: the URL is none of these; it is not repeated.
    """
    patience: dict[str, Any] = {"socket_connect_timeout": connect_timeout_s, "socket_timeout": timeout_s}
    parts = urlsplit(url)
    if parts.scheme in _SCHEMES:
        pool, sentinels = _sentinel_pool(parts, patience)
    else:
        pool, sentinels = ConnectionPool(**_options(url, patience)), []
    try:
        yield pool
    finally:
        await pool.disconnect()
        for sentinel in sentinels:
            await sentinel.aclose()


def _sentinel_pool(parts: SplitResult, patience: dict[str, Any]) -> tuple[ConnectionPool, list[Any]]:
    """Return a pool that asks for the master anew with each connection, and whom it asks."""
    login, _, addresses = parts.netloc.rpartition("@")
    master, _, database = parts.path.strip("/").partition("/")
    if not master or not addresses:
        raise ValueError("a URL of Sentinels is redis+sentinel://host:port,host:port/master/db")
    query = parse_qsl(parts.query)
    of_redis = urlencode([(name, value) for name, value in query if not name.startswith(_OF_SENTINELS)])
    own = {name.removeprefix(_OF_SENTINELS): value for name, value in query if name.startswith(_OF_SENTINELS)}
    # The host stands for the one that the Sentinels will name.
    netloc = f"{login}@master" if login else "master"
    options = _options(urlunsplit((_SCHEMES[parts.scheme], netloc, f"/{database}", of_redis, "")), patience)
    del options["host"]
    options["ssl"] = options.pop("connection_class", None) is SSLConnection
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [_address(one) for one in addresses.split(",")], sentinel_kwargs=tls | _SENTINEL_OPTIONS | own
    )
    pool = SentinelConnectionPool(unquote(master), sentinel, **options)  # type: ignore[no-untyped-call]
    return pool, sentinel.sentinels


def _options(url: str, patience: dict[str, Any]) -> dict[str, Any]:
    """Read a URL as redis-py does, with what it leaves out: time-outs, and a look at the server's name."""
    options: dict[str, Any] = {
        "health_check_interval": 15,
        "retry": Retry(NoBackoff(), 1),
        # A master that became a replica keeps its connections: the name is asked anew where it leads now.
        "retry_on_error": [ReadOnlyError],
        **patience,
    }
    given = dict(parse_url(url))
    if given.get("connection_class") is SSLConnection:
        options["ssl_check_hostname"] = given.get("ssl_cert_reqs", "required") == "required"
    return options | given


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a Sentinel's address is host:port")
    return parts.hostname, parts.port or _SENTINEL_PORT
