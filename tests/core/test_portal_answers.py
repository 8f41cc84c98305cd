"""What an answer of the portal means: the body decides, not the status alone."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from service.core.errors import (
    BadContentError,
    CodexFailureError,
    DocumentNotReadyError,
    NoAccessError,
    PortalBlockedError,
    PortalError,
    PortalOverloadedError,
    PortalThrottledError,
    PortalUnauthorizedError,
    PortalUnavailableError,
    ProcessNotFoundError,
    RefusedError,
)
from service.core.portal_answers import error_in_content, error_of, retry_after_s

CODEX = {"timestamp": "2025-01-01T10:00:00Z", "status": 500, "message": "x", "externalUrlService": "y"}


def _body(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b"", PortalUnauthorizedError),
        (401, b"  ", PortalUnauthorizedError),
        (401, {"error": "invalid_token", "message": "Token expirado"}, PortalUnauthorizedError),
        (401, {"error": "Unauthorized"}, PortalUnauthorizedError),
        (401, b"Bearer token missing", PortalUnauthorizedError),
        (401, b"<html><title>Request Rejected</title>", PortalBlockedError),
        (401, b"<html>entre com sua senha", PortalBlockedError),
        (401, {"message": "sem acesso"}, NoAccessError),
        (401, {"message": "Usuário não possui acesso ao processo."}, NoAccessError),
        (403, {"message": "sem acesso"}, NoAccessError),
        (403, {"code": "403", "message": "proibido"}, NoAccessError),
        (403, {"error": "token expirado"}, PortalUnauthorizedError),
        (403, b"<html>Request Rejected</html>", PortalBlockedError),
        (403, b"", PortalBlockedError),
        (404, {"code": "x", "message": "nada"}, ProcessNotFoundError),
        (404, [], ProcessNotFoundError),
        (404, b"<html>nginx", BadContentError),
        (404, b"", BadContentError),
        (404, {"timestamp": 1_700_000_000_000, "status": 404, "error": "Not Found"}, RefusedError),
        (400, {"message": "id"}, RefusedError),
        (500, CODEX, CodexFailureError),
        (500, {"status": 500}, PortalUnavailableError),
        (500, b"<html>", PortalUnavailableError),
        (408, b"", PortalUnavailableError),
        (429, b"", PortalThrottledError),
        (502, b"", PortalUnavailableError),
        (503, b"", PortalOverloadedError),
        (504, b"", PortalUnavailableError),
        (503, b"<html><body>The requested URL was rejected.", PortalBlockedError),
        (418, b"", RefusedError),
        (202, b"", DocumentNotReadyError),
        (304, b"", BadContentError),
    ],
)
def test_each_refusal_has_one_meaning(status: int, body: Any, expected: type[PortalError]) -> None:
    assert type(error_of(status, {}, _body(body))) is expected


def test_an_unknown_route_and_a_bad_id_have_codes_of_their_own() -> None:
    assert error_of(404, {}, _body({"timestamp": 1, "error": "Not Found"})).code == "unknown_route"
    assert error_of(400, {}, b"").code == "bad_request"


@pytest.mark.parametrize(("status", "expected"), [(429, PortalThrottledError), (503, PortalOverloadedError)])
def test_an_answer_that_asks_for_patience_says_how_long_to_wait(
    status: int, expected: type[PortalThrottledError | PortalOverloadedError]
) -> None:
    error = error_of(status, {"Retry-After": "12"}, b"")
    assert isinstance(error, expected)
    assert error.retry_after_s == 12


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"<!doctype html><html><app-root></app-root>", BadContentError),
        (b'\xef\xbb\xbf\n<html ng-version="15">', BadContentError),
        (b"<html><title>Request Rejected</title>", PortalBlockedError),
        (b'{"status": 500, "message": "x"}', BadContentError),
        (b'{"code": "404", "message": "x", "detail": "y"}', BadContentError),
        (b'{"error": "x"}', BadContentError),
    ],
)
def test_what_is_no_document_is_found_out_behind_a_200(head: bytes, expected: type[PortalError]) -> None:
    assert type(error_in_content(head, size=len(head))) is expected


@pytest.mark.parametrize(
    "head",
    [
        b"<p>Vista ao autor</p>",
        b"<p>O sistema respondeu: Request Rejected.</p>",
        b"%PDF-1.7 {} <app-root",
        b"{\\rtf1 status}",
        b'{"a": 1}',
        b'{"numero": 1, "partes": [], "valor": 2, "status": "ativo"}',
        b"[1]",
        b"",
    ],
)
def test_a_document_is_left_alone(head: bytes) -> None:
    assert error_in_content(head, size=len(head)) is None


def test_a_large_json_is_no_error_envelope_however_its_beginning_reads() -> None:
    assert error_in_content(b'{"error": "x"}', size=5000) is None


def test_retry_after_is_read_in_both_forms_and_bounded() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(minutes=2), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(minutes=2), usegmt=True)
    read = retry_after_s(at)
    assert read is not None
    assert 100 < read <= 120
    assert [retry_after_s(value) for value in ("7", "99999999", past)] == [7, 3600, 0]


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5", "Mon, 99 Nov 99999 00:00:00 GMT"])
def test_a_retry_after_that_says_nothing_is_ignored(value: str | None) -> None:
    assert retry_after_s(value) is None
