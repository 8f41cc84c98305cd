"""Links signed by hand: byte for byte what botocore signs, and accepted by real servers."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import botocore.session
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from service.core.presign import Credentials, content_disposition, presign_get, safe_filename
from service.core.storage import open_storage
from tests.core.s3_servers import KINDS, open_server, s3_settings

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
PERMANENT = Credentials("AKINVENTED", "secret/with+signs")
TEMPORARY = Credentials("ASINVENTED", "another=secret", "token/with+signs==")
KEYS = (
    "processes/10035792220258260564/6b1d1c4e/1-1-1.pdf",
    "a b+c/ç~ü=&?#%41.html",
    "/leading//double/./../dots",
)
NAMES = ("Petição inicial.pdf", 'a "quoted"; name\r\nX-Evil: 1.html', "判決 100%.pdf", "plain.pdf")
ENDPOINTS = ("http://127.0.0.1:9000", "https://Files.Example.org", "https://files.example.org:8443")


def _link(**changes: Any) -> str:
    arguments: dict[str, Any] = {
        "endpoint_url": "https://s3.sa-east-1.amazonaws.com",
        "bucket": "court-files",
        "key": KEYS[0],
        "region": "sa-east-1",
        "credentials": PERMANENT,
        "filename": NAMES[0],
        "now": NOW,
        "ttl_s": 3600,
    }
    return presign_get(**{**arguments, **changes})


def _botocore_client(endpoint_url: str, credentials: Credentials) -> Any:
    return botocore.session.get_session().create_client(
        "s3",
        region_name="sa-east-1",
        endpoint_url=endpoint_url,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.session_token,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


def _botocore_link(client: Any, key: str, filename: str) -> str:
    parameters = {
        "Bucket": "court-files",
        "Key": key,
        "ResponseContentDisposition": content_disposition(filename),
    }
    link: str = client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=1234)
    return link


@pytest.mark.parametrize("credentials", [PERMANENT, TEMPORARY], ids=["permanent", "temporary"])
@pytest.mark.parametrize("endpoint_url", ENDPOINTS)
def test_links_equal_botocores_byte_for_byte(endpoint_url: str, credentials: Credentials) -> None:
    client = _botocore_client(endpoint_url, credentials)
    for key, filename in [(key, name) for key in KEYS for name in NAMES]:
        theirs = _botocore_link(client, key, filename)
        signed_at = parse_qs(urlsplit(theirs).query)["X-Amz-Date"][0]
        now = datetime.strptime(signed_at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        ours = _link(
            endpoint_url=endpoint_url,
            key=key,
            filename=filename,
            credentials=credentials,
            now=now,
            ttl_s=1234,
        )
        assert ours == theirs


def test_the_same_moment_in_another_time_zone_gives_the_same_link() -> None:
    brasilia = timezone(timedelta(hours=-3))
    assert _link(now=NOW.astimezone(brasilia)) == _link()
    assert _link(now=NOW + timedelta(seconds=1)) != _link()


def test_the_usual_port_is_not_signed_because_clients_do_not_send_it() -> None:
    with_port, without = (
        _link(endpoint_url="https://files.example:443"),
        _link(endpoint_url="https://files.example"),
    )
    assert with_port.replace(":443", "") == without


def test_secrets_are_in_no_repr_and_in_no_link() -> None:
    assert "secret" not in repr(TEMPORARY)
    assert "token" not in repr(TEMPORARY)
    assert "another" not in _link(credentials=TEMPORARY)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("Petição.pdf", "attachment; filename=\"Peticao.pdf\"; filename*=UTF-8''Peti%C3%A7%C3%A3o.pdf"),
        ("a/b\\c:d.pdf", "attachment; filename=\"a_b_c_d.pdf\"; filename*=UTF-8''a_b_c_d.pdf"),
        ("100% (1).rtf", "attachment; filename=\"100_ (1).rtf\"; filename*=UTF-8''100%25%20%281%29.rtf"),
        ("", "attachment; filename=\"document\"; filename*=UTF-8''document"),
        ("..", "attachment; filename=\"document\"; filename*=UTF-8''document"),
    ],
)
def test_a_document_is_saved_under_its_name(name: str, header: str) -> None:
    assert content_disposition(name) == header


def test_a_name_cannot_break_out_of_its_header() -> None:
    header = content_disposition('x"\r\nSet-Cookie: a=1\r\n\r\n<script>\u202efdp.exe')
    assert header.count('"') == 2
    assert all(" " <= char <= "~" for char in header)
    assert "\u202e" not in safe_filename("\u202efdp.exe")


def test_a_long_name_keeps_its_extension() -> None:
    name = safe_filename("ação " * 100 + ".pdf")
    assert name.endswith(".pdf")
    assert 170 <= len(name.encode()) <= 180
    assert len(safe_filename("no extension. " + "x" * 400)) == 180


@given(st.text(max_size=400))
def test_any_name_at_all_gives_a_plain_header_and_a_short_name(name: str) -> None:
    header = content_disposition(name)
    assert all(" " <= char <= "~" for char in header)
    assert header.count('"') == 2
    assert 1 <= len(safe_filename(name).encode()) <= 180
    assert safe_filename(safe_filename(name)) == safe_filename(name)


# By real servers -----------------------------------------------------------------------------------


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body


@pytest.mark.parametrize("kind", KINDS)
async def test_a_link_downloads_the_document_under_its_name(kind: str, tmp_path: Path) -> None:
    async with (
        open_server(kind, tmp_path) as server,
        open_storage(s3_settings(server)) as storage,
        aiohttp.ClientSession() as http,
    ):
        await storage.ensure_bucket()
        body = b"%PDF-1.7 invented"
        for key in KEYS[:2]:
            await storage.store(
                key, _whole(body), media_type="application/pdf", expected_bytes=None, max_bytes=100
            )
            link = storage.presign(key, filename="Petição.pdf", now=datetime.now(UTC))
            async with http.get(URL(link, encoded=True)) as response:
                assert (response.status, await response.read()) == (200, body)
                assert response.headers["Content-Disposition"] == content_disposition("Petição.pdf")


async def test_an_expired_or_changed_link_is_refused(tmp_path: Path) -> None:
    """By rclone alone: moto accepts both."""
    async with (
        open_server("rclone", tmp_path) as server,
        open_storage(s3_settings(server)) as storage,
        aiohttp.ClientSession() as http,
    ):
        key = "a.pdf"
        await storage.store(key, _whole(b"x"), media_type="application/pdf", expected_bytes=1, max_bytes=9)
        old = storage.presign(key, filename=key, now=datetime.now(UTC) - timedelta(hours=2))
        good = storage.presign(key, filename=key, now=datetime.now(UTC))
        for link in (old, good.replace("filename", "filenome"), good.replace("Expires=3600", "Expires=9999")):
            async with http.get(URL(link, encoded=True)) as response:
                assert response.status in (400, 403)
