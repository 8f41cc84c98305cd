"""The ways to PostgreSQL and Redis: is what goes there encrypted, and is it known who answers."""

from urllib.parse import parse_qs, urlsplit

from service.checkup.findings import Findings, ok, warning
from service.checkup.loopback import LOOPBACK
from service.core.settings import Settings


async def check_encryption(settings: Settings) -> Findings:
    """Look at the URLs alone: TLS that takes any certificate, or falls back to none, is none."""
    direct, redis = settings.database_direct_url, settings.redis_url.get_secret_value()
    open_ways = [
        name
        for name, is_open in (
            ("DATABASE_URL (sslmode=verify-full)", _is_open(settings.database_url.get_secret_value())),
            ("AUTOS_DATABASE_DIRECT_URL (sslmode=verify-full)", direct and _is_open(settings.session_url)),
            ("REDIS_URL (rediss://)", _is_open(redis) and not _is_verified_redis(redis)),
        )
        if is_open
    ]
    if open_ways:
        words = "may be read or answered by others on the way; in brackets what closes it"
        return [warning("encryption", f"{', '.join(open_ways)}: {words}")]
    return [ok("encryption", "PostgreSQL and Redis are on this machine, or have to show a certificate")]


def _is_open(url: str) -> bool:
    """Whether a URL leads to another machine without a word on certificates."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    is_here = not host or all(urlsplit(f"//{one}").hostname in LOOPBACK for one in host.split(","))
    return not is_here and parse_qs(parts.query).get("sslmode") != ["verify-full"]


def _is_verified_redis(url: str) -> bool:
    checks = parse_qs(urlsplit(url).query).get("ssl_cert_reqs", ["required"])
    return url.startswith("rediss") and checks == ["required"]
