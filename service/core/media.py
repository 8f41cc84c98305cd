"""The type of a document, decided by its bytes."""

import mimetypes
import re

import puremagic

OCTETS = "application/octet-stream"
_PDF = "application/pdf"
_HTML = "text/html"
_RTF = "application/rtf"
_PDF_JUNK_BYTES = 1024
_HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|meta|title|style|div|p|span|"
    rb"table|br|h[1-6]|font|center|article|section|b|i|u|strong|em|ul|ol|a|img|form)[\s>/]",
    re.IGNORECASE | re.DOTALL,
)
_ZIP_START = b"PK\x03\x04"
# puremagic's confidence is a tenth per byte of the signature: two bytes are found in any text.
_SURE = 0.3
_EXTENSIONS = {
    _PDF: "pdf",
    _HTML: "html",
    _RTF: "rtf",
    OCTETS: "bin",
    "application/xml": "xml",
    "text/plain": "txt",
    "image/jpeg": "jpg",
    "image/tiff": "tif",
    "video/mp4": "mp4",
    "audio/mpeg": "mp3",
}
_ALIASES = {"text/richtext": _RTF, "text/rtf": _RTF, "text/xml": "application/xml", "image/jpg": "image/jpeg"}
_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]*")


def sniff(head: bytes, *, declared: str | None, name: str | None) -> str:
    """Return the media type: magic bytes before what is declared before the name's suffix."""
    last_resort = "application/zip" if head.startswith(_ZIP_START) else OCTETS
    return _by_bytes(head) or _by_declaration(declared) or _by_name(name) or last_resort


def extension(media_type: str) -> str:
    """Return the suffix for a media type, without its dot."""
    if known := _EXTENSIONS.get(media_type):
        return known
    return (mimetypes.guess_extension(media_type) or ".bin")[1:]


def _by_bytes(head: bytes) -> str | None:
    # Portals put junk before a PDF's header; readers look for it in the first kilobyte.
    if b"%PDF-" in head[: _PDF_JUNK_BYTES + 5]:
        return _PDF
    if head.startswith(b"{\\rtf"):
        return _RTF
    if _HTML_START.match(head):
        return _HTML
    if head.startswith(_ZIP_START):
        return None  # an archive, or any office format: what is declared knows better
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return None
    sure = [one.mime_type for one in found if one.confidence >= _SURE and one.mime_type]
    return _by_declaration(sure[0]) if sure else None


def _by_declaration(declared: str | None) -> str | None:
    media_type = (declared or "").split(";")[0].strip().lower()
    media_type = _ALIASES.get(media_type, media_type)
    return media_type if _TYPE.fullmatch(media_type) and media_type != OCTETS else None


def _by_name(name: str | None) -> str | None:
    return _by_declaration(mimetypes.guess_type(name or "")[0])
