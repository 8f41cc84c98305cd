"""S3 as anybody else sees it: the library's own client."""

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import aioboto3

from service.core.settings import Settings

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client


def open_client(settings: Settings) -> AbstractAsyncContextManager["S3Client"]:
    """Open a client with the credentials of the settings."""
    assert settings.aws_secret_access_key
    return aioboto3.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        aws_access_key_id=settings.aws_access_key_id,
        aws_secret_access_key=settings.aws_secret_access_key.get_secret_value(),
        region_name=settings.aws_region,
    )
