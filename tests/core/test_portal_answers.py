"""What an answer of the portal means: the body decides, not the status alone."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from service.core.errors import (
    BadContentError,
    CodexFailureError,
    NoAccessError,
    PortalBlockedError,
    PortalError,
    PortalThrottledError,
    PortalUnauthorizedError,
    PortalUnavailableError,
    ProcessNotFoundError,
    RefusedError,
)
from service.core.portal_answers import error_in_content, error_of, retry_after_s

CODEX = {"timestamp": "2025-01-01T10:00:00Z", "status": 500, "message": "x", "externalUrlService": "y"}


def _body(value: Any) -> bytes:
    return json.dumps(value).encode() if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b"", PortalUnauthorizedError),
        (401, {"message": "sem acesso"}, NoAccessError),
        (403, {"message": "sem acesso"}, NoAccessError),
        (403, b"<html>Request Rejected</html>", PortalBlockedError),
        (403, b"", PortalBlockedError),
        (404, {"code": "x", "message": "nada"}, ProcessNotFoundError),
        (404, {"timestamp": 1_700_000_000_000, "status": 404, "error": "Not Found"}, RefusedError),
        (400, {"message": "id"}, RefusedError),
        (500, CODEX, CodexFailureError),
        (500, {"status": 500}, PortalUnavailableError),
        (500, b"<html>", PortalUnavailableError),
        (408, b"", PortalUnavailableError),
        (429, b"", PortalThrottledError),
        (502, b"", PortalUnavailableError),
        (503, b"", PortalUnavailableError),
        (504, b"", PortalUnavailableError),
        (418, b"", RefusedError),
    ],
)
def test_each_refusal_has_one_meaning(status: int, body: Any, expected: type[PortalError]) -> None:
    assert type(error_of(status, {}, _body(body))) is expected


def test_an_unknown_route_is_our_own_defect_and_no_absence() -> None:
    assert error_of(404, {}, _body({"timestamp": 1, "error": "Not Found"})).code == "unknown_route"


@pytest.mark.parametrize(
    ("content_type", "head", "expected"),
    [
        ("text/html", b"<!doctype html><html><app-root></app-root>", BadContentError),
        ("text/html", b'<html ng-version="15">', BadContentError),
        ("text/html", b"<html><title>Request Rejected</title>", PortalBlockedError),
        ("application/json", b'{"status": 500, "message": "x"}', BadContentError),
        ("application/pdf", b'{"error": "x"}', BadContentError),
    ],
)
def test_what_is_no_document_is_found_out_behind_a_200(
    content_type: str, head: bytes, expected: type[PortalError]
) -> None:
    assert type(error_in_content(content_type, head, size=len(head))) is expected


@pytest.mark.parametrize(
    ("content_type", "head"),
    [
        ("text/html", b"<p>Vista ao autor</p>"),
        ("application/pdf", b"%PDF-1.7 {}"),
        ("text/richtext", b"{\\rtf1 status}"),
        ("application/json", b'{"a": 1}'),
        ("application/json", b"[1]"),
    ],
)
def test_a_document_is_left_alone(content_type: str, head: bytes) -> None:
    assert error_in_content(content_type, head, size=len(head)) is None


def test_retry_after_is_read_in_both_forms_and_bounded() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(minutes=2), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(minutes=2), usegmt=True)
    read = retry_after_s(at)
    assert read is not None
    assert 100 < read <= 120
    assert [retry_after_s(value) for value in ("7", "99999999", past, "soon", "-1", None)] == [
        7,
        3600,
        0,
        None,
        None,
        None,
    ]
