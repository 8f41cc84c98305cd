"""The PUT of a small object, signed by hand: a quarter of what it costs through botocore.

AWS Signature Version 4 in the headers. It is tried once, and whatever does not end with 200 is left to the
library, which knows of regions, of clocks that are wrong, and of second tries.
"""

import base64
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from service import __version__
from service.core.multipart import Part
from service.core.presign import Credentials, host_header, signing_key
from service.core.s3_client import Patience
from service.core.s3_encryption import NO_ENCRYPTION, Encryption

# After so many failures in a row the library alone is asked for a while: what does not work need not be tried
# each time.
_MOST_FAILURES = 3
_REST_S = 30.0
# Of an answer whose body ought to be empty.
_BEGINNING_BYTES = 1024

log = logging.getLogger(__name__)


class QuickPut:
    """Puts small objects into one bucket.

    Args:
        endpoint_url: of S3; objects are addressed in path style.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint_url: str,
        bucket: str,
        *,
        region: str,
        encryption: Encryption = NO_ENCRYPTION,
    ) -> None:
        endpoint = urlsplit(endpoint_url)
        self._session = session
        self._origin = f"{endpoint.scheme}://{endpoint.netloc}"
        self._host = host_header(endpoint.scheme, endpoint.netloc)
        self._folder = f"{endpoint.path.rstrip('/')}/{bucket}/"
        self._region = region
        self._encryption = encryption
        self._failures = 0
        self._rest_until = 0.0

    async def put(
        self, key: str, body: Part, *, sha256: bytes, media_type: str, credentials: Credentials
    ) -> bool:
        """Send an object and say whether S3 has it; False leaves that open. S3 verifies its SHA-256."""
        if time.monotonic() < self._rest_until:
            return False
        path = self._folder + quote(key, safe="/~")
        headers = put_headers(
            self._host,
            path,
            region=self._region,
            credentials=credentials,
            sha256=sha256,
            media_type=media_type,
            encryption=self._encryption,
            now=datetime.now(UTC),
        )
        headers["content-length"] = str(len(body))
        url = URL(self._origin + path, encoded=True)
        try:
            async with self._session.put(
                url, data=body.as_payload(), headers=headers, allow_redirects=False
            ) as answer:
                if await _is_stored(answer):
                    self._failures = 0
                    return True
                self._note_failure(f"S3 answered {answer.status}")
        except (aiohttp.ClientError, OSError) as error:
            self._note_failure(type(error).__name__)
        return False

    def _note_failure(self, failure: str) -> None:
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            log.info("the library puts all objects for %.0f s: %s", _REST_S, failure)
            self._failures, self._rest_until = 0, time.monotonic() + _REST_S


@asynccontextmanager
async def open_quick_put(
    endpoint_url: str,
    bucket: str,
    *,
    region: str,
    patience: Patience,
    connections: int,
    encryption: Encryption = NO_ENCRYPTION,
) -> AsyncIterator[QuickPut]:
    """Open a session of its own to S3 with so many connections at most."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections),
        headers={"User-Agent": f"autos/{__version__}", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=patience.connect_s, sock_read=patience.read_s),
        auto_decompress=False,
    )
    async with session:
        yield QuickPut(session, endpoint_url, bucket, region=region, encryption=encryption)


async def _is_stored(answer: aiohttp.ClientResponse) -> bool:
    """Whether S3 says that it has the object: 200 alone does not, an error can come with it."""
    if answer.status != 200 or "ETag" not in answer.headers:
        return False
    return b"<Error" not in await answer.content.read(_BEGINNING_BYTES)


def put_headers(
    host: str,
    path: str,
    *,
    region: str,
    credentials: Credentials,
    sha256: bytes,
    media_type: str,
    now: datetime,
    encryption: Encryption = NO_ENCRYPTION,
) -> dict[str, str]:
    """Return the signed headers of a PUT: host, type, checksum, hash, date, token, encryption, authorization.

    Args:
        path: as it is sent, escaped.
        now: with a time zone.
    """
    moment = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    # In the order of the alphabet, which is that of the signature.
    signed = {
        "content-type": media_type,
        "host": host,
        "x-amz-checksum-sha256": base64.b64encode(sha256).decode(),
        "x-amz-content-sha256": sha256.hex(),
        "x-amz-date": moment,
    }
    if credentials.session_token is not None:
        signed["x-amz-security-token"] = credentials.session_token
    signed |= encryption.headers
    names = ";".join(signed)
    lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
    request = f"PUT\n{path}\n\n{lines}\n{names}\n{sha256.hex()}"
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.digest(signing_key(credentials.secret_key, scope), text.encode(), "sha256").hex()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    )
    return {**signed, "authorization": authorization}
