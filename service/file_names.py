"""Names under which the documents of a case can be saved side by side, on any file system, in order."""

import re
import unicodedata

# What Windows forbids; every other system forbids less.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]+')
_MOST_BYTES = 120


def saved_name(ordinal: int, name: str, *, suffix: str, count: int) -> str:
    """Return a name such as `0007 - Despacho.html`, unique by its ordinal (from 1) among `count` documents.

    Args:
        suffix: of what the file really is, without the dot; empty for none.
    """
    kept = _FORBIDDEN.sub(" ", unicodedata.normalize("NFC", name))
    # Control characters; those of format could turn the shown name around.
    kept = "".join(one for one in kept if unicodedata.category(one)[0] != "C")
    kept = " ".join(kept.split())
    if suffix and kept.lower().endswith(f".{suffix}"):
        kept = kept[: -len(suffix) - 1]
    kept = kept.encode()[:_MOST_BYTES].decode(errors="ignore").strip(" .") or "Documento"
    width = max(4, len(str(count)))
    return f"{ordinal:0{width}} - {kept}" + (f".{suffix}" if suffix else "")
