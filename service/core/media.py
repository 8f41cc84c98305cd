"""The type of a document, decided by its bytes."""

import mimetypes
import re
from dataclasses import dataclass

import puremagic

OCTETS = "application/octet-stream"
_PDF = "application/pdf"
_HTML = "text/html"
_RTF = "application/rtf"
_XML = "application/xml"
_SVG = "image/svg+xml"
_PDF_JUNK_BYTES = 1024

_UTF8_BOM, _UTF16_BOMS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_HTML_TAG = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|meta|title|style|script|link|base|div|p|span|pre|table|tbody|thead|tr|"
    rb"td|th|br|hr|h[1-6]|font|center|article|section|main|header|footer|nav|blockquote|label|form|input|"
    rb"b|i|u|s|strong|em|small|ul|ol|li|dl|a|img|o:p)[\s>/]",
    re.IGNORECASE,
)
_XML_ROOT = re.compile(rb"<(?:!doctype\s+)?(?:[\w.-]+:)?([\w.-]+)", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_TEXT_PROBE_BYTES = 512

# puremagic's confidence is a tenth for each byte of the signature that matched, 0.8 at the most. Two bytes
# are found in anything, and a text may well begin with the letters of a longer one ("ID3", "From", "FWS").
_SURE_OF_BYTES = 0.3
_SURE_OF_TEXT = 0.8


@dataclass(frozen=True, slots=True)
class _Family:
    """Formats that begin alike; `members` are the types that a declaration may tell apart."""

    start: re.Pattern[bytes]
    members: re.Pattern[str]
    itself: str


_FAMILIES = (
    _Family(
        re.compile(rb"PK\x03\x04"),
        re.compile(
            r"application/(?:vnd\.(?:openxmlformats|oasis\.opendocument|ms-|google-earth\.kmz).*|.*\+zip"
            r"|java-archive|x-zip-compressed|zip)"
        ),
        "application/zip",
    ),
    _Family(
        re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        re.compile(r"application/(?:msword|vnd\.ms-.*|vnd\.visio|x-ole-storage)"),
        "application/x-ole-storage",
    ),
    # Cryptographic Message Syntax: a signature, often around a whole PDF that must not pass for one.
    _Family(
        re.compile(rb"0[\x80-\x84].{0,4}?\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02", re.DOTALL),
        re.compile(r"application/(?:x-)?pkcs7-.*"),
        "application/pkcs7-mime",
    ),
)
_EXTENSIONS = {
    _PDF: "pdf",
    _HTML: "html",
    _RTF: "rtf",
    OCTETS: "bin",
    _XML: "xml",
    _SVG: "svg",
    "text/plain": "txt",
    "image/jpeg": "jpg",
    "image/tiff": "tif",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "application/pkcs7-mime": "p7m",
    "application/pkcs7-signature": "p7s",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
}
_SUFFIXES = {suffix: media_type for media_type, suffix in _EXTENSIONS.items()}
_ALIASES = {
    "text/richtext": _RTF,
    "text/rtf": _RTF,
    "application/x-rtf": _RTF,
    "application/x-pdf": _PDF,
    "application/xhtml+xml": _HTML,
    "text/xml": _XML,
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
}
_SAYS_NOTHING = frozenset(
    {OCTETS, "binary/octet-stream", "application/unknown", "application/binary", "application/force-download"}
)
_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]*")
# An instance knows Python's own table only; the module's functions also read what the machine has.
_TABLE = mimetypes.MimeTypes()


def sniff(head: bytes, *, declared: str | None, name: str | None) -> str:
    """Return the media type: magic bytes before what is declared before the name's suffix.

    Args:
        head: the first bytes of the document; 4 KiB are plenty.
    """
    told = [one for one in (_normal(declared), _by_name(name)) if one]
    found = _of_family(head, told) or _by_start(head) or _by_signature(head, told)
    return found or (told[0] if told else OCTETS)


def extension(media_type: str) -> str:
    """Return the suffix for a media type, without its dot; "bin" for one that has none."""
    if known := _EXTENSIONS.get(media_type):
        return known
    return (_TABLE.guess_extension(media_type) or ".bin")[1:]


def _of_family(head: bytes, told: list[str]) -> str | None:
    """Bytes name the family; which member it is, only a declaration that fits can say."""
    for family in _FAMILIES:
        if family.start.match(head):
            return next((one for one in told if family.members.fullmatch(one)), family.itself)
    return None


def _by_start(head: bytes) -> str | None:
    # Portals put junk before a PDF's header; readers look for it in the first kilobyte.
    if b"%PDF-" in head[: _PDF_JUNK_BYTES + 5]:
        return _PDF
    text = _as_text(head)
    return _RTF if text.startswith(b"{\\rtf") else _markup(text)


def _as_text(head: bytes) -> bytes:
    """The bytes as UTF-8, or anything like ASCII, without the mark and the white space at their start."""
    if head.startswith(_UTF16_BOMS):
        head = head.decode("utf-16", "ignore").encode(errors="ignore")
    return head.removeprefix(_UTF8_BOM).lstrip()


def _markup(text: bytes) -> str | None:
    text = _after_comments(text)
    if _HTML_TAG.match(text):
        return _HTML
    if text.startswith(b"<?xml"):
        return _root(_after_comments(text.partition(b"?>")[2].lstrip()))
    return _XML if text[:9].upper() == b"<!DOCTYPE" else None


def _root(text: bytes) -> str:
    root = _XML_ROOT.match(text)
    return {b"html": _HTML, b"svg": _SVG}.get(root[1].lower() if root else b"", _XML)


def _after_comments(text: bytes) -> bytes:
    # By hand: an expression for any number of comments takes exponential time on a hostile document.
    while text.startswith(b"<!--"):
        text = text.partition(b"-->")[2].lstrip()
    return text


def _by_signature(head: bytes, told: list[str]) -> str | None:
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return None
    is_text = not _CONTROL.search(head[:_TEXT_PROBE_BYTES])
    least = _SURE_OF_TEXT if is_text else _SURE_OF_BYTES
    sure = [
        (one.confidence, kind)
        for one in found
        if one.confidence >= least and (kind := _normal(one.mime_type))
    ]
    best = [kind for confidence, kind in sure if confidence == max(sure)[0]]
    # Formats may share one signature: then a declaration among them decides.
    return next((one for one in told if one in best), best[0]) if best else None


def _normal(declared: str | None) -> str | None:
    """A declared type without its parameters, under its usual name; None when it says nothing."""
    media_type = (declared or "").split(";")[0].strip().lower()
    media_type = _ALIASES.get(media_type, media_type)
    return media_type if _TYPE.fullmatch(media_type) and media_type not in _SAYS_NOTHING else None


def _by_name(name: str | None) -> str | None:
    _, dot, suffix = (name or "").rpartition(".")
    suffix = suffix.lower()
    return _normal(_SUFFIXES.get(suffix) or _TABLE.types_map[True].get(f".{suffix}")) if dot else None
