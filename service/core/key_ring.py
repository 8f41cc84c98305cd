"""Secrets at rest: AES-256-GCM under a ring of keys from the environment.

A sealed secret is bound to the row that holds it (the associated data): copied into another row it cannot be
opened. Its form: one byte for the kind, then for `_SEALED` four bytes that name the key, a nonce of twelve
bytes and the ciphertext with its tag (NIST SP 800-38D); for `_PLAIN` the secret itself.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.core.errors import SecretUnreadableError

KEY_BYTES = 32

NO_KEYS = "AUTOS_SECRET_KEYS is not set: signing secrets are stored as they are"
"""For the log of who starts without keys."""

_PLAIN, _SEALED = b"\0", b"\1"
_ID_BYTES = 4
_NONCE_BYTES = 12


class KeyRing:
    """Seals with the first key and opens with any; without keys it keeps secrets as they are.

    Args:
        keys: 32 bytes each, the newest first.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._first = next(iter(self._ciphers), None)

    def seal(self, secret: bytes, *, row: str) -> bytes:
        """Return a secret as the row of this name may hold it."""
        if self._first is None:
            return _PLAIN + secret
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _SEALED + self._first + nonce + self._ciphers[self._first].encrypt(nonce, secret, row.encode())

    def open(self, sealed: bytes, *, row: str) -> bytes:
        """Return what was sealed for the row of this name.

        Raises:
            SecretUnreadableError: its key is not in the ring, or it was changed or moved.
        """
        if sealed[:1] == _PLAIN:
            return sealed[1:]
        key_id, rest = sealed[1 : 1 + _ID_BYTES], sealed[1 + _ID_BYTES :]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise SecretUnreadableError(
                f"a secret is sealed with a key ({key_id.hex()}) that AUTOS_SECRET_KEYS does not hold"
            )
        try:
            return cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], row.encode())
        except (InvalidTag, ValueError) as error:
            raise SecretUnreadableError("a sealed secret was changed or moved") from error

    def is_sealed_last(self, sealed: bytes) -> bool:
        """Whether it is sealed with the first key, or kept as it is because there is none."""
        newest = _PLAIN if self._first is None else _SEALED + self._first
        return sealed.startswith(newest)


def new_key() -> str:
    """Return a new key as the setting takes it."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def parse_keys(text: str) -> list[bytes]:
    """Read keys written in base64 with commas between.

    Raises:
        ValueError: one is no base64 or not 32 bytes long.
    """
    try:
        keys = [base64.b64decode(part.strip(), validate=True) for part in text.split(",") if part.strip()]
    except binascii.Error as error:
        raise ValueError("each key has to be base64") from error
    if any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(f"each key has to have {KEY_BYTES} bytes")
    return keys


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:_ID_BYTES]
