"""Named places at which a test ends the process, as a power cut would.

Nothing happens anywhere unless the environment variable AUTOS_CRASH_POINT names one of them.
`tests/faults/test_crash_points.py` ends a process at each; docs/faults.md says what must hold then.
"""

import os
from typing import Literal, TypeAlias, get_args

Point: TypeAlias = Literal[
    "submission.written",  # before its commit
    "submission.committed",  # before the ring
    "submission.rung",  # before the answer
    "job.cancelled",  # after its commit, before its webhook is rung for
    "job.heard",  # rung for, not claimed
    "job.claimed",
    "job.listed",
    "job.sealing",  # objects that have become too secret are removed, their rows do not know
    "document.received",  # some bytes of it
    "upload.part_sent",  # one part of several
    "document.stored",  # the object is in S3, the row does not know
    "progress.written",  # the heartbeat, with the rows of documents
    "job.settling",  # final status, documents and deliveries written, before the commit
    "job.settled",  # after the commit, before the rings
    "delivery.claimed",
    "delivery.sent",  # the receiver has answered, the row does not know
    "delivery.noted",
    "sweep.freed",  # an expired lease
    "sweep.listed",  # what to ring for is marked as rung for, and was not
    "janitor.removed",  # the objects of one page, and not the rest
    "erasure.committed",  # the rows are gone, the answer and the objects are not
    "erasure.removed",  # the objects of one page, and not the rest
    "canary.begun",  # after its commit; nothing is rung for, and what it stored before is not removed
]
POINTS: tuple[Point, ...] = get_args(Point)
EXIT_STATUS = 86

_WANTED = os.environ.get("AUTOS_CRASH_POINT")


def crash_point(name: Point) -> None:
    """End the process here if this is the point that a test named; without a word, a flush or a farewell."""
    if name == _WANTED:
        os._exit(EXIT_STATUS)
