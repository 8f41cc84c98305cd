"""This machine and its settings: the API's address, open files, webhooks, what is kept and what is secret."""

import resource

import aiohttp
from yarl import URL

from service.checkup.findings import Finding, Findings, ok, warning, wrong
from service.checkup.loopback import LOOPBACK, is_out_of_sight
from service.core.settings import Settings

_TIMEOUT_S = 6.0
# Logs, libraries, Redis, the listener, and the connections of callers that are just being closed.
_SPARE_FILES = 64


async def check_api(settings: Settings) -> Findings:
    """Ask the API at its public address whether it lives."""
    url = URL(settings.public_url)
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session,
            session.get(url / "healthz", allow_redirects=False) as response,
        ):
            said = await response.content.read(1024)
    except (aiohttp.ClientError, OSError) as error:
        if is_out_of_sight(url.host):
            words = "it is the loopback of the machine around this container: ask its /healthz from there"
            return [warning("public url", words)]
        words = (
            f"nothing answers at AUTOS_PUBLIC_URL ({type(error).__name__}): does the API run, is it right?"
        )
        return [wrong("public url", words)]
    if response.status != 200 or b'"ok"' not in said:
        words = f"/healthz answers {response.status} at AUTOS_PUBLIC_URL: does it lead to the API?"
        return [wrong("public url", words)]
    return [_address(url, settings)]


def _address(url: URL, settings: Settings) -> Finding:
    if url.host in LOOPBACK:
        if settings.host in LOOPBACK:
            return ok("public url", "the API answers, for this machine alone")
        words = "the API listens to others, and writes links to this machine: set AUTOS_PUBLIC_URL"
        return warning("public url", words)
    if url.scheme != "https":
        return warning("public url", "the API answers over http: keys and documents' names go in clear text")
    return ok("public url", "the API answers there")


async def check_files(settings: Settings) -> Findings:
    """Compare how many files a process may have open with the connections that the settings allow."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _SPARE_FILES + settings.database_pool_size + max(_of_api(settings), _of_worker(settings))
    if limit != resource.RLIM_INFINITY and limit < needed:
        words = (
            f"a process may have {limit} (ulimit -n), and the settings allow for {needed}: raise the limit"
        )
        return [warning("open files", words)]
    shown = "any number" if limit == resource.RLIM_INFINITY else str(limit)
    return [ok("open files", f"a process may have {shown} (ulimit -n), and needs up to {needed}")]


def _of_api(settings: Settings) -> int:
    return settings.max_requests


def _of_worker(settings: Settings) -> int:
    # A document has a connection to the portal and one to S3.
    deliveries = settings.deliveries_per_worker + settings.slow_deliveries_per_worker
    return 2 * settings.downloads_per_worker + settings.jobs_per_worker + deliveries


async def check_webhooks(settings: Settings) -> Findings:
    """Look for settings that let webhooks go where they could do harm."""
    open_to = [
        words
        for is_set, words in (
            (settings.webhook_allow_private, "AUTOS_WEBHOOK_ALLOW_PRIVATE opens every private address"),
            ("http" in settings.webhook_schemes, "AUTOS_WEBHOOK_SCHEMES lets them go in clear text"),
            (settings.webhook_networks, "AUTOS_WEBHOOK_NETWORKS opens networks that are not public"),
        )
        if is_set
    ]
    if open_to:
        return [warning("webhooks", f"{'; '.join(open_to)}: callers choose the URLs, so is that meant?")]
    only = ", to the hosts of AUTOS_WEBHOOK_ALLOWED_HOSTS" if settings.webhook_allowed_hosts else ""
    return [ok("webhooks", f"they go to public addresses by https alone{only}")]


async def check_kept(settings: Settings) -> Findings:
    """Say what is kept, and up to which secrecy documents are handed out."""
    if settings.retention_days is None:
        kept = ok("retention", "nothing is ever forgotten; AUTOS_RETENTION_DAYS says after how many days")
    else:
        kept = ok(
            "retention", f"what ended {settings.retention_days} days ago is forgotten, with its objects"
        )
    if settings.max_secrecy == 0:
        return [kept, ok("secrecy", "public documents alone")]
    words = f"documents up to level {settings.max_secrecy} of 5 are fetched: AUTOS_MAX_SECRECY"
    return [kept, warning("secrecy", f"{words}; `python -m service clients secrecy` sets it for each client")]
