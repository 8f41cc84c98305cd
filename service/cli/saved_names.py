"""Under which names the documents of a process are saved: the same ones whenever it is downloaded again."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from service.core import media
from service.file_names import saved_name
from service.schemas import DocumentAnswer

_LAST_PLACE = 999_999


def saved_names(documents: Sequence[DocumentAnswer]) -> dict[UUID, str]:
    """Return for each document, by its id, a name that is safe on every system and that no other has.

    It begins with the place in the court's list, which stays when others are added. Documents that share a
    place are told apart by the portal's id.
    """
    taken = Counter(_place(one) for one in documents)
    return {one.id: _name(one, is_alone=taken[_place(one)] == 1) for one in documents}


def _place(document: DocumentAnswer) -> int:
    return document.position if 0 <= document.position <= _LAST_PLACE else 0


def _name(document: DocumentAnswer, *, is_alone: bool) -> str:
    suffix = media.extension(document.mime_type) if document.mime_type else ""
    # The id first: a long name is cut at its end.
    name = document.name if is_alone else f"{document.uuid.hex} {document.name}"
    return saved_name(_place(document), name, suffix=suffix, count=1)
