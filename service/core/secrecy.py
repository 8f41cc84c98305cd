"""What is too secret for a client, and what may be told of it all the same.

A document is as secret as the higher of its own level and that of its process; both are read each time.
Of what is too secret may be told that it is there, how far it has come, and how much of it there is in all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from service.core.documents import Document, Kept
from service.core.processes import Process

_WITHHELD = {"name": "", "type": None, "size": None, "mime_type": None, "sha256": None}


def shown(documents: Sequence[Document], *, most: int) -> list[Document]:
    """Return documents as somebody sees them who may have what is so secret at most.

    Of the others nothing is left that says what they are about, and nothing to make a link of.
    """
    return [one if one.secrecy_level <= most else _without_content(one) for one in documents]


def shown_process(process: Process, *, most: int) -> Process:
    """Return a process as he sees it: its court, its state and its times, if it is too secret."""
    if process.secrecy_level is None or process.secrecy_level <= most:
        return process
    return replace(process, subject=None, case_class=None, metadata={}, source_updated_at=None)


def shown_event(event: Mapping[str, Any], kept: Mapping[UUID, Kept], *, most: int) -> dict[str, Any]:
    """Return a stored event as he sees it now, whatever it was when it happened.

    Args:
        kept: those of its documents that there still are. Of the others nobody knows how secret they have
            become.
    """
    if "documents" not in event:
        return dict(event)
    items = [
        item if (one := kept.get(UUID(item["id"]))) and one.secrecy_level <= most else {**item, **_WITHHELD}
        for item in event["documents"]
    ]
    return {**event, "documents": items}


def document_ids(event: Mapping[str, Any]) -> list[UUID]:
    """Return the ids of the documents that an event tells of."""
    return [UUID(item["id"]) for item in event.get("documents", ())]


def _without_content(document: Document) -> Document:
    return replace(
        document,
        name="",
        type=None,
        declared_type=None,
        declared_bytes=None,
        filed_at=None,
        media_type=None,
        size_bytes=None,
        sha256=None,
        object_key=None,
    )
