"""Links to objects, signed by hand: AWS Signature Version 4 in the query string.

botocore signs with its own clock only, and thirty times slower. Here the same `now` gives the same link,
so that a webhook that is sent twice has the same body twice.
"""

import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

_LONGEST_NAME_BYTES = 180
_LONGEST_EXTENSION = 16
_UNNAMED = "document"
# What RFC 8187 lets stand unescaped in `filename*`, beside letters and digits.
_PLAIN = "!#$&+-.^_`|~"


@dataclass(frozen=True)
class Credentials:
    """Who signs; `session_token` is set for credentials that expire."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def presign_get(
    endpoint_url: str,
    bucket: str,
    key: str,
    *,
    region: str,
    credentials: Credentials,
    filename: str,
    now: datetime,
    ttl_s: int,
    is_shown: bool = False,
) -> str:
    """Return a link that downloads the object under the name `filename`, from `now` for `ttl_s` seconds.

    Args:
        endpoint_url: the S3 endpoint as callers reach it; the link is in path style.
        now: with a time zone.
        is_shown: let browsers show it in place of saving it; for types only that run nothing in S3's origin.
    """
    origin, host, folder = _address(endpoint_url, bucket)
    signing = _signing(credentials, region, now, ttl_s)
    path = folder + quote(key, safe="/~")
    disposition = "response-content-disposition=" + _quoted_disposition(filename, is_shown)
    # The signature is over the parameters in the order of the alphabet; botocore writes them in another.
    by_name = f"{signing.who_and_when}{signing.token}&X-Amz-SignedHeaders=host&{disposition}"
    request = f"GET\n{path}\n{by_name}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    text = signing.text + hashlib.sha256(request.encode()).hexdigest()
    signature = hmac.digest(signing.key, text.encode(), "sha256").hex()
    written = f"{disposition}&{signing.who_and_when}&X-Amz-SignedHeaders=host{signing.token}"
    return f"{origin}{path}?{written}&X-Amz-Signature={signature}"


class _Signing(NamedTuple):
    """What all links of one moment have in common."""

    who_and_when: str
    token: str
    text: str
    key: bytes


@lru_cache(maxsize=64)
def _signing(credentials: Credentials, region: str, now: datetime, ttl_s: int) -> _Signing:
    moment = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    who = quote(f"{credentials.access_key}/{scope}", safe="-._~")
    token = credentials.session_token
    return _Signing(
        f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={who}&X-Amz-Date={moment}&X-Amz-Expires={ttl_s}",
        "" if token is None else f"&X-Amz-Security-Token={quote(token, safe='-._~')}",
        f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n",
        signing_key(credentials.secret_key, scope),
    )


@lru_cache(maxsize=4)
def _address(endpoint_url: str, bucket: str) -> tuple[str, str, str]:
    """Return the beginning of a link, the host as clients send it, and the path of the bucket."""
    endpoint = urlsplit(endpoint_url)
    host = host_header(endpoint.scheme, endpoint.netloc)
    return f"{endpoint.scheme}://{endpoint.netloc}", host, f"{endpoint.path.rstrip('/')}/{bucket}/"


# Documents share a few names, and a list is polled again and again.
@lru_cache(maxsize=4096)
def _quoted_disposition(filename: str, is_shown: bool) -> str:
    return quote(content_disposition(filename, is_shown=is_shown), safe="-._~")


def content_disposition(filename: str, *, is_shown: bool = False) -> str:
    """Return the header that saves a document under its name: ASCII for old clients, then the whole name.

    An attachment unless it `is_shown`, since HTML and SVG from a court must not run in S3's origin.
    """
    name = safe_filename(filename)
    decomposed = unicodedata.normalize("NFKD", name)
    letters = "".join(char for char in decomposed if not unicodedata.combining(char))
    # Some browsers decode percent signs in the plain name.
    ascii_name = re.sub(r"[^ -~]|%", "_", letters).replace('"', "'").replace("\\", "_")
    kind = "inline" if is_shown else "attachment"
    return f"{kind}; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe=_PLAIN)}"


def safe_filename(filename: str) -> str:
    """Return the name without what could leave a header or a folder, at most 180 bytes, extension kept."""
    # Categories C*: control characters, and invisible ones that turn the reading direction round.
    visible = "".join(" " if unicodedata.category(char)[0] == "C" else char for char in filename)
    one_line = " ".join(visible.split())
    name = re.sub(r'[/\\:*?"<>|]', "_", one_line).strip(". ")
    if len(name.encode()) <= _LONGEST_NAME_BYTES:
        return name or _UNNAMED
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > _LONGEST_EXTENSION:
        stem, dot, extension = name, "", ""
    left_bytes = _LONGEST_NAME_BYTES - len((dot + extension).encode())
    return stem.encode()[:left_bytes].decode(errors="ignore").rstrip(". ") + dot + extension


def host_header(scheme: str, netloc: str) -> str:
    """The header as clients send it: lower case, without the scheme's own port."""
    usual_port = {"http": ":80", "https": ":443"}.get(scheme, "")
    return netloc.lower().removesuffix(usual_port)


@lru_cache(maxsize=4)
def signing_key(secret_key: str, scope: str) -> bytes:
    """Return the key that signs for a scope, `<day>/<region>/s3/aws4_request`."""
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
