"""The type of a document is decided by its bytes."""

import pytest

from service.core.media import extension, sniff


@pytest.mark.parametrize(
    ("head", "declared", "expected"),
    [
        (b"%PDF-1.7\n", "text/html", "application/pdf"),
        (b"\x00junk\r\n" * 50 + b"%PDF-1.4", None, "application/pdf"),
        (b"<!DOCTYPE html><html>", "application/pdf", "text/html"),
        (b"\xef\xbb\xbf  <!-- x -->\n<div class='a'>", None, "text/html"),
        (b"<p>oi</p>", "application/pdf", "text/html"),
        (b"{\\rtf1\\ansi", "text/richtext", "application/rtf"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, "application/pdf", "image/png"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + b"\x00" * 40, None, "image/jpeg"),
        (b"II*\x00" + b"\x00" * 40, None, "image/tiff"),
        (b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 40, None, "video/mp4"),
        (b"PK\x03\x04" + b"\x00" * 40, None, "application/zip"),
        (
            b"PK\x03\x04" + b"\x00" * 40,
            "application/vnd.oasis.opendocument.text",
            "application/vnd.oasis.opendocument.text",
        ),
        (b"BM anexado aos autos", "text/plain", "text/plain"),
        (b"texto simples", "text/plain; charset=utf-8", "text/plain"),
        (b"texto simples", None, "application/octet-stream"),
        (b"quem sabe", "text/richtext", "application/rtf"),
        (b"quem sabe", "no type", "application/octet-stream"),
        (b"", None, "application/octet-stream"),
    ],
)
def test_bytes_come_before_what_is_declared(head: bytes, declared: str | None, expected: str) -> None:
    assert sniff(head, declared=declared, name=None) == expected


def test_the_name_is_the_last_resort() -> None:
    assert sniff(b"a;b;c", declared=None, name="planilha.csv") == "text/csv"
    assert sniff(b"%PDF-1.7", declared=None, name="planilha.csv") == "application/pdf"


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/pdf", "pdf"),
        ("text/html", "html"),
        ("application/rtf", "rtf"),
        ("image/png", "png"),
        ("x-unheard/of", "bin"),
    ],
)
def test_a_type_has_a_suffix(media_type: str, expected: str) -> None:
    assert extension(media_type) == expected
