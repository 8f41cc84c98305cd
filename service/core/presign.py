"""Presigned links by Signature Version 4, for a given time.

By hand because botocore cannot sign for a given time, which makes a webhook's repeated body identical,
and takes half a millisecond a link; its own answer is the test's measure.
"""

import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

_MOST_NAME_CHARACTERS = 150


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a link is signed with."""

    access_key: str
    secret_key: str
    session_token: str | None = None


def presign_get(
    endpoint_url: str,
    bucket: str,
    key: str,
    *,
    credentials: Credentials,
    region: str,
    filename: str,
    now: datetime,
    ttl_s: int,
) -> str:
    """Return a URL that gives the object as an attachment for `ttl_s` seconds from `now`."""
    endpoint = urlsplit(endpoint_url)
    at = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{at[:8]}/{region}/s3/aws4_request"
    path = f"{endpoint.path.rstrip('/')}/{quote(bucket, safe='')}/{quote(key, safe='/~')}"
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": at,
        "X-Amz-Expires": str(ttl_s),
        "X-Amz-SignedHeaders": "host",
        "response-content-disposition": content_disposition(filename),
    }
    if credentials.session_token:
        query["X-Amz-Security-Token"] = credentials.session_token
    canonical_query = "&".join(f"{quote(n, safe='~')}={quote(v, safe='~')}" for n, v in sorted(query.items()))
    request = f"GET\n{path}\n{canonical_query}\nhost:{endpoint.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    to_sign = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signing_key = f"AWS4{credentials.secret_key}".encode()
    for part in (*scope.split("/"), to_sign):
        signing_key = hmac.digest(signing_key, part.encode(), hashlib.sha256)
    return (
        f"{endpoint.scheme}://{endpoint.netloc}{path}?{canonical_query}&X-Amz-Signature={signing_key.hex()}"
    )


def content_disposition(filename: str) -> str:
    """Return an attachment's header with an ASCII fallback and the true name (RFC 6266, RFC 8187)."""
    name = re.sub(r"[\x00-\x1f\x7f/\\]+", "_", filename).strip(" .") or "document"
    name = name[:_MOST_NAME_CHARACTERS]
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    ascii_name = re.sub(r'["%]', "_", ascii_name) or "document"
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='')}"
