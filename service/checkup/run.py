"""Every check beside the others, each with an end, and a line for each finding in a fixed order."""

import asyncio
import logging
from collections.abc import Mapping

from service.checkup.database import check_database, check_secrets
from service.checkup.encryption import check_encryption
from service.checkup.findings import Check, Finding, Findings, ok, wrong
from service.checkup.host import check_api, check_files, check_kept, check_webhooks
from service.checkup.portal import check_portal, check_token
from service.checkup.redis import check_redis
from service.checkup.storage import check_storage
from service.core.log import redact
from service.core.settings import Settings

_TIMEOUT_S = 30.0

log = logging.getLogger(__name__)


async def _check_settings(_settings: Settings) -> Findings:
    return [ok("settings", "read from the environment and, if there is one, the file .env in this folder")]


CHECKS: Mapping[str, Check] = {
    "settings": _check_settings,
    "database": check_database,
    "secrets": check_secrets,
    "redis": check_redis,
    "encryption": check_encryption,
    "bucket": check_storage,
    "portal token": check_token,
    "portal": check_portal,
    "public url": check_api,
    "open files": check_files,
    "webhooks": check_webhooks,
    "retention": check_kept,
}


async def run(
    settings: Settings, checks: Mapping[str, Check] = CHECKS, *, timeout_s: float = _TIMEOUT_S
) -> int:
    """Look at everything and print what was found; return 1 when something is wrong.

    Args:
        timeout_s: for each check.
    """
    looking = [
        asyncio.create_task(_bounded(name, check, settings, timeout_s)) for name, check in checks.items()
    ]
    is_wrong = False
    for task in looking:
        for found in await task:
            print(_line(found), flush=True)
            is_wrong |= found.verdict == "wrong"
    return 1 if is_wrong else 0


async def _bounded(name: str, check: Check, settings: Settings, timeout_s: float) -> Findings:
    try:
        async with asyncio.timeout(timeout_s):
            return await check(settings)
    except TimeoutError:
        return [wrong(name, f"this took longer than {timeout_s:g} s")]
    except Exception as error:
        # A defect of one check, or an error that nobody thought of: the others go on all the same.
        log.exception("check-up of %s", name)
        return [wrong(name, f"the look at it failed ({type(error).__name__})")]


def _line(found: Finding) -> str:
    return redact(f"{found.verdict:8} {found.name}: {found.words}")
