"""Errors to Sentry, when the operator names a place for them: what the log says at ERROR, redacted like it.

No integration but those below is switched on: the others read requests and the addresses that are called.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aiohttp.http_exceptions import HttpProcessingError

from service import __version__
from service.core.errors import SentryMissingError
from service.core.log import bound_ids, redact
from service.core.settings import Settings

if TYPE_CHECKING:
    from sentry_sdk.transport import Transport
    from sentry_sdk.types import Event

_LAST_SECONDS = 2.0


@contextmanager
def open_sentry(settings: Settings, *, transport: "type[Transport] | None" = None) -> Iterator[None]:
    """Send errors until the block ends; nothing at all without `AUTOS_SENTRY_DSN`.

    Args:
        transport: takes the place of Sentry's own, for tests.

    Raises:
        SentryMissingError: `sentry-sdk` is not installed.
        ValueError: the setting is none of Sentry's addresses.
    """
    if settings.sentry_dsn is None:
        yield
        return
    try:
        # Not above: without the setting nobody needs the package.
        import sentry_sdk  # noqa: PLC0415
        from sentry_sdk.integrations.dedupe import DedupeIntegration  # noqa: PLC0415
        from sentry_sdk.integrations.excepthook import ExcepthookIntegration  # noqa: PLC0415
        from sentry_sdk.integrations.logging import LoggingIntegration  # noqa: PLC0415
        from sentry_sdk.utils import Dsn  # noqa: PLC0415
    except ImportError as error:
        raise SentryMissingError(
            "AUTOS_SENTRY_DSN is set, and the package sentry-sdk is not installed"
        ) from error
    dsn = settings.sentry_dsn.get_secret_value()
    try:
        Dsn(dsn)
    except ValueError:
        raise ValueError("AUTOS_SENTRY_DSN has to be https://key@host/number") from None
    sentry_sdk.init(
        dsn=dsn,
        transport=transport,
        release=f"autos@{__version__}",
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            LoggingIntegration(level=None, sentry_logs_level=None),
            ExcepthookIntegration(),
            DedupeIntegration(),
        ],
        # `send_default_pii` is off unless somebody turns it on, and naming it is deprecated.
        include_local_variables=False,
        max_request_body_size="never",
        # Lines of other requests and jobs of the same process.
        max_breadcrumbs=0,
        auto_session_tracking=False,
        before_send=_redacted,
    )
    try:
        yield
    finally:
        sentry_sdk.get_client().close(timeout=_LAST_SECONDS)


def _redacted(event: "Event", hint: dict[str, Any]) -> "Event | None":
    """Return what may leave; Sentry drops the event when this fails."""
    _, error, _ = hint.get("exc_info") or (None, None, None)
    if isinstance(error, HttpProcessingError):
        return None  # what strangers send that is no HTTP is no defect of ours
    event.setdefault("tags", {}).update(bound_ids())
    clean: Event = _clean(event)
    return clean


def _clean(value: Any) -> Any:
    match value:
        case str():
            return redact(value)
        case dict():
            return {_clean(name): _clean(one) for name, one in value.items()}
        case list() | tuple():
            return [_clean(one) for one in value]
        case _:
            return value
