"""Standard Webhooks 1.0 signatures (https://www.standardwebhooks.com), and their secrets."""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from secrets import token_bytes

TOLERANCE_S = 300
_PREFIX = "whsec_"


def new_secret() -> bytes:
    """Return 32 random bytes."""
    return token_bytes(32)


def show_secret(secret: bytes) -> str:
    """Write a secret as `whsec_` and base64, the form that receivers are given."""
    return _PREFIX + base64.b64encode(secret).decode()


def parse_secret(text: str) -> bytes:
    """Read a secret written by `show_secret`; the prefix may be missing.

    Raises:
        ValueError: not base64, or not 24 to 64 bytes long.
    """
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("a signing secret is whsec_ followed by base64") from error
    if not 24 <= len(secret) <= 64:
        raise ValueError("a signing secret has 24 to 64 bytes")
    return secret


def sign(secret: bytes, *, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the `v1,…` signature of exactly these bytes; `timestamp` is in unix seconds."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


def signed_headers(
    secrets: Sequence[bytes], *, message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """Return the three headers of one attempt, signed with each secret, the newest first."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            sign(secret, message_id=message_id, timestamp=timestamp, body=body) for secret in secrets
        ),
    }


def verify(
    secrets: Sequence[bytes], headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> bool:
    """Whether a received message was signed with any of these and is at most five minutes old or ahead."""
    message_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not message_id or not stamp.isdecimal() or not f"{message_id}{stamp}{signatures}".isascii():
        return False
    if abs((time.time() if now is None else now) - int(stamp)) > TOLERANCE_S:
        return False
    expected = [sign(secret, message_id=message_id, timestamp=int(stamp), body=body) for secret in secrets]
    return any(hmac.compare_digest(one, given) for one in expected for given in signatures.split())
