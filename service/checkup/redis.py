"""Redis: does it answer, does it run our scripts, and does it keep what it is given."""

from typing import Any
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ResponseError

from service.checkup.findings import Finding, Findings, ok, warning, wrong
from service.core.queue import REDIS_ERRORS
from service.core.redis_client import open_redis_pool
from service.core.settings import Settings

_OLDEST = (6, 2)
_TIMEOUT_S = 3.0
_SCRIPT = "redis.call('SET', KEYS[1], ARGV[1], 'PX', 1000) return redis.call('GET', KEYS[1])"


async def check_redis(settings: Settings) -> Findings:
    """Look at server, memory and scripts."""
    try:
        async with open_redis_pool(
            settings.redis_url.get_secret_value(), connect_timeout_s=_TIMEOUT_S, timeout_s=_TIMEOUT_S
        ) as pool:
            return await _look(Redis(connection_pool=pool))
    except ValueError:
        return [wrong("redis", "REDIS_URL is no URL of a Redis")]


async def _look(redis: Redis) -> Findings:
    try:
        info = await redis.info()
    except AuthenticationError:
        return [wrong("redis", "it refuses the password of REDIS_URL")]
    except REDIS_ERRORS as error:
        words = f"it does not answer ({type(error).__name__}): is it running, is REDIS_URL right?"
        return [wrong("redis", words)]
    return [_server(info), _memory(info), await _scripts(redis)]


def _server(info: dict[str, Any]) -> Finding:
    version = str(info.get("redis_version", ""))
    parts = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    if tuple(parts) < _OLDEST:
        return wrong("redis", f"it is version {version}: Autos needs 6.2 or later")
    return ok("redis", f"version {version} answers")


def _memory(info: dict[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        return ok("redis memory", "maxmemory-policy is noeviction")
    words = f"maxmemory-policy is {policy}, which throws away keys when memory is full: set it to noeviction"
    return (wrong if policy.startswith("allkeys") else warning)("redis memory", words)


async def _scripts(redis: Redis) -> Finding:
    try:
        await redis.eval(_SCRIPT, 1, f"autos:checkup:{uuid4().hex}", "1")  # type: ignore[misc]
    except ResponseError as error:
        code = str(error).split(" ", 1)[0]
        return wrong("redis scripts", f"it did not run one that writes ({code}): is it full, or read-only?")
    except REDIS_ERRORS as error:
        return wrong("redis scripts", f"it did not run one ({type(error).__name__})")
    return ok("redis scripts", "it runs Lua")
