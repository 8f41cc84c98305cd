"""How S3 is asked to encrypt at rest what is stored, in every way in which objects are written."""

from dataclasses import dataclass
from typing import Any

from service.core.settings import Settings


@dataclass(frozen=True)
class Encryption:
    """What goes with each object that is written.

    Attributes:
        algorithm: `AES256` or `aws:kms`; None to leave it to the bucket.
        kms_key_id: for `aws:kms`; None for the key that S3 keeps for it.
    """

    algorithm: str | None = None
    kms_key_id: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a PUT, in the order of the alphabet."""
        headers = {}
        if self.algorithm is not None:
            headers["x-amz-server-side-encryption"] = self.algorithm
        if self.kms_key_id is not None:
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = self.kms_key_id
        return headers

    @property
    def options(self) -> dict[str, Any]:
        """The same as parameters of the library's calls."""
        options = {}
        if self.algorithm is not None:
            options["ServerSideEncryption"] = self.algorithm
        if self.kms_key_id is not None:
            options["SSEKMSKeyId"] = self.kms_key_id
        return options


NO_ENCRYPTION = Encryption()


def encryption_of(settings: Settings) -> Encryption:
    """Return what the settings ask for."""
    if settings.s3_encryption == "none":
        return NO_ENCRYPTION
    return Encryption(settings.s3_encryption, settings.s3_kms_key_id)
