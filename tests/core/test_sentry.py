"""What leaves for Sentry says what went wrong, and no secret."""

import logging
from collections.abc import Iterator

import pytest
import sentry_sdk
from aiohttp.http_exceptions import BadHttpMessage
from sentry_sdk.envelope import Envelope
from sentry_sdk.scope import should_send_default_pii
from sentry_sdk.transport import Transport

from service.core.log import bound
from service.core.sentry import open_sentry
from service.core.settings import Settings

DSN = "https://public@sentry.example.com/1"
SECRET = "HIDDEN"
sent: list[Envelope] = []

log = logging.getLogger("tests.sentry")


class Kept(Transport):
    """Keeps what would be sent."""

    def capture_envelope(self, envelope: Envelope) -> None:
        sent.append(envelope)


@pytest.fixture(autouse=True)
def _nothing_was_sent() -> Iterator[None]:
    sent.clear()
    yield
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
def on() -> Iterator[None]:
    with open_sentry(Settings.model_validate({"sentry_dsn": DSN}), transport=Kept):
        yield


def _event() -> dict[str, object]:
    (envelope,) = sent
    event = envelope.get_event()
    assert event is not None
    return dict(event)


def _fail(webhook_url: str) -> None:
    key = f"autos_live_abc123_{SECRET}{SECRET}"
    body = {"token": f"Bearer {SECRET}.{SECRET}", "webhook_url": webhook_url}
    raise ValueError(f"cannot reach {webhook_url} with {key}: {len(body)}")


def _bytes() -> bytes:
    return b"".join(envelope.serialize() for envelope in sent)


def test_a_secret_in_an_exception_or_in_a_message_never_leaves(on: None) -> None:
    try:
        _fail(f"https://hooks.example.com/in?token={SECRET}")
    except ValueError:
        log.exception("failed for %s and %s", f"whsec_{SECRET}SElEREVO", "1003579-22.2025.8.26.0564")
    assert "ValueError" in str(_event())
    assert "hooks.example.com" in str(_event())
    assert SECRET.encode() not in _bytes()
    assert b"0564" not in _bytes()


def test_it_holds_no_local_variables_no_person_and_nothing_of_other_lines(on: None) -> None:
    log.warning("of another matter")
    try:
        _fail("https://hooks.example.com/in")
    except ValueError:
        log.exception("failed")
    assert b'"vars"' not in _bytes()
    assert not should_send_default_pii()
    # The text of the other line stands beside the one that failed in the source, which may leave.
    assert _event()["breadcrumbs"] == {"values": []}


def test_it_says_what_it_is_about(on: None) -> None:
    with bound(job_id="3ae81e9f", request_id=f"autos_live_abc_{SECRET}"):
        log.error("no traceback here")
    assert _event()["tags"] == {"job_id": "3ae81e9f", "request_id": "autos_[redacted]"}
    assert _event()["level"] == "error"


def test_what_strangers_send_that_is_no_http_stays_here(on: None) -> None:
    try:
        raise BadHttpMessage("not HTTP")
    except BadHttpMessage:
        log.exception("Error handling request")
    assert sent == []


def test_what_is_no_error_stays_here(on: None) -> None:
    log.warning("only a warning")
    assert sent == []


def test_without_the_setting_nothing_is_sent() -> None:
    with open_sentry(Settings(), transport=Kept):
        log.error("an error")
    assert sent == []
    assert not sentry_sdk.get_client().is_active()


def test_after_the_block_nothing_is_sent() -> None:
    with open_sentry(Settings.model_validate({"sentry_dsn": DSN}), transport=Kept):
        log.error("the last one")
    log.error("too late")
    assert len(sent) == 1


@pytest.mark.parametrize(
    "dsn", ["nonsense", "https://sentry.example.com/1", "https://key@sentry.example.com/x"]
)
def test_what_is_no_address_of_sentrys_is_refused_by_the_name_of_the_setting(dsn: str) -> None:
    with (
        pytest.raises(ValueError, match="AUTOS_SENTRY_DSN has to be") as refused,
        open_sentry(Settings.model_validate({"sentry_dsn": dsn}), transport=Kept),
    ):
        pass
    assert dsn not in str(refused.value)
