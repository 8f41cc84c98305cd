"""The type of a document is decided by its bytes."""

import pytest

from service.core.media import extension, sniff

SIGNED = b"0\x82\x10\x00\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x82"


@pytest.mark.parametrize(
    ("head", "declared", "expected"),
    [
        (b"%PDF-1.7\n", "text/html", "application/pdf"),
        (b"\x00junk\r\n" * 50 + b"%PDF-1.4", None, "application/pdf"),
        (b"<!DOCTYPE html><html>", "application/pdf", "text/html"),
        (b"\xef\xbb\xbf  <!-- x -->\n<div class='a'>", None, "text/html"),
        (b"<p>oi</p>", "application/pdf", "text/html"),
        (b"<!-- a --> <!-- b > --><TABLE>", None, "text/html"),
        ("\ufeff<html>".encode("utf-16-le"), None, "text/html"),
        (b'<?xml version="1.0"?><!DOCTYPE html><html>', None, "text/html"),
        (b'<?xml version="1.0"?><!-- x --><svg xmlns="">', None, "image/svg+xml"),
        (b'<?xml version="1.0"?>\n<nfe:nota>', "text/plain", "application/xml"),
        (b"<autuado em 2025>", "text/plain", "text/plain"),
        (b"<!--" * 1000, "text/plain", "text/plain"),
        (b"<!--x-->" * 500 + b"fim", "text/plain", "text/plain"),
        (b"{\\rtf1\\ansi", "text/richtext", "application/rtf"),
        (b"\r\n{\\rtf1", None, "application/rtf"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, "application/pdf", "image/png"),
        (b"PK\x03\x04" + b"\x00" * 40, "text/html", "application/zip"),
        (b"PK\x03\x04" + b"\x00" * 40 + b"%PDF-1.4", None, "application/zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 99, "application/msword", "application/msword"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 99, None, "application/x-ole-storage"),
        (SIGNED + b"%PDF-1.4", "application/pdf", "application/pkcs7-mime"),
        (SIGNED, "application/pkcs7-signature", "application/pkcs7-signature"),
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
        (b"ID3 e FWS sao siglas", "text/plain", "text/plain"),
        (b"From: o autor", "text/plain", "text/plain"),
        (b"MZ\x00\x01", "image/png", "image/png"),
        (b"texto simples", "text/plain; charset=utf-8", "text/plain"),
        (b"quem sabe", "binary/octet-stream", "application/octet-stream"),
        (b"texto simples", None, "application/octet-stream"),
        (b"quem sabe", "text/richtext", "application/rtf"),
        (b"quem sabe", "no type", "application/octet-stream"),
        (b"", None, "application/octet-stream"),
    ],
)
def test_bytes_come_before_what_is_declared(head: bytes, declared: str | None, expected: str) -> None:
    assert sniff(head, declared=declared, name=None) == expected


def test_the_name_is_the_last_resort() -> None:
    assert sniff(b"x", declared=None, name="data:text/html,x; autos/Peticao.RTF") == "application/rtf"
    assert sniff(b"x", declared=None, name="sem sufixo") == "application/octet-stream"
    assert sniff(b"a;b;c", declared=None, name="planilha.csv") == "text/csv"
    assert sniff(b"%PDF-1.7", declared=None, name="planilha.csv") == "application/pdf"


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/pdf", "pdf"),
        ("text/html", "html"),
        ("application/rtf", "rtf"),
        ("image/png", "png"),
        ("application/zip", "zip"),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"),
        ("x-unheard/of", "bin"),
    ],
)
def test_a_type_has_a_suffix(media_type: str, expected: str) -> None:
    assert extension(media_type) == expected
