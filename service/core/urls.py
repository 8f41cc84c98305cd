"""The URLs among the settings: looked at before anybody uses them, and never repeated.

Who forgets to percent-encode a password cuts his URL in pieces, and what then reads it takes a piece of the
password for a port, a host or a database, which it would name in its complaint.
"""

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

_ENCODED = "in user and password, special characters have to be percent-encoded: # as %23, / as %2F, @ as %40"
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]@]+)(?::(\d{0,5}))?")
_POSTGRES = "has to be postgresql://user:password@host:port/database"
_REDIS = (
    "has to be redis://user:password@host:port/number, or rediss://, redis+sentinel://, rediss+sentinel://"
)
_ADDRESS = "has to be http(s)://host or http(s)://host/path, without user, query and fragment"
_SENTINELS = ("redis+sentinel", "rediss+sentinel")


def check_postgres_url(url: str) -> None:
    """Look whether a URL is one of a PostgreSQL database: of one host, several, or a socket in its query.

    Raises:
        ValueError: it is not; nothing of it is repeated.
    """
    parts = _split(url, _POSTGRES)
    # What is before the first "@" is the login there, and all else the host.
    if parts.scheme not in ("postgresql", "postgres") or parts.netloc.count("@") > 1:
        raise ValueError(f"{_POSTGRES}; {_ENCODED}")
    hosts = parts.netloc.rpartition("@")[2]
    ports = [value for name, value in parse_qsl(parts.query) if name == "port"]
    if (hosts and not _are_hosts(hosts)) or not all(map(_is_port, ",".join(ports).split(","))):
        raise ValueError(f"{_POSTGRES}; {_ENCODED}")


def check_redis_url(url: str) -> None:
    """Look whether a URL is one of a Redis: at an address, a socket, or behind Sentinels.

    Raises:
        ValueError: it is not; nothing of it is repeated.
    """
    parts = _split(url, _REDIS)
    if parts.scheme == "unix":
        return
    hosts = parts.netloc.rpartition("@")[2]
    is_one = parts.scheme in ("redis", "rediss") and "," not in hosts
    # The master that they know stands first in the path.
    are_sentinels = parts.scheme in _SENTINELS and hosts and parts.path.strip("/")
    if not (is_one or are_sentinels) or (hosts and not _are_hosts(hosts)):
        raise ValueError(f"{_REDIS}; {_ENCODED}")


def check_address(url: str) -> None:
    """Look whether a URL is one of a server that we call by HTTP.

    Raises:
        ValueError: it is not; it is not repeated.
    """
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in url
    except ValueError:  # a port that is none
        is_one = False
    if not is_one:
        raise ValueError("has to be http(s)://host, with a port and a path if need be")


def public_address(url: str) -> str:
    """Return the address of the API without a slash at its end, so that paths can follow.

    Raises:
        ValueError: it is no address that a path can follow; it is not repeated.
    """
    parts = _split(url, _ADDRESS)
    if parts.scheme not in ("http", "https") or "?" in url or "@" in parts.netloc:
        raise ValueError(_ADDRESS)
    if not _are_hosts(parts.netloc) or "," in parts.netloc or not url.isprintable() or " " in url:
        raise ValueError(_ADDRESS)
    return url.rstrip("/")


def _split(url: str, form: str) -> SplitResult:
    """Split a URL of which nothing can be a piece of a password that is not encoded."""
    try:
        parts = urlsplit(url)
        if parts.query:
            parse_qsl(parts.query, strict_parsing=True)
    except ValueError:
        raise ValueError(f"{form}; {_ENCODED}") from None
    if "#" in url or "@" in parts.path or "@" in parts.query:
        raise ValueError(f"{form}; {_ENCODED}")
    return parts


def _are_hosts(text: str) -> bool:
    found = [_HOST.fullmatch(one) for one in text.split(",")]
    return all(one is not None and _is_port(one[1] or "") for one in found)


def _is_port(text: str) -> bool:
    return not text or (text.isdecimal() and int(text) < 65_536)
