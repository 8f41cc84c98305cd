"""The key ring that everything in the tests seals with, and a look at the secrets under it."""

import base64
from uuid import UUID

from service.core import signing_secrets
from service.core.db import Connection
from service.core.key_ring import KEY_BYTES, KeyRing

_KEY = b"k" * KEY_BYTES

SECRET_KEYS = base64.b64encode(_KEY).decode()
"""As `AUTOS_SECRET_KEYS` has it."""

RING = KeyRing([_KEY])


async def secret_of(conn: Connection, client_id: UUID, endpoint_id: UUID | None = None) -> bytes:
    """Return the newest secret of a client or an endpoint."""
    return (await signing_secrets.list_live(conn, RING, client_id, endpoint_id))[0]
