"""Python's collector of cycles, told what a server is like.

A server makes a hundred thousand objects as it starts (descriptions of S3's operations above all), which live
as long as it does, and few cycles afterwards. Left as it is, the collector walks over all of them again and
again: a seventh of a worker's time.
"""

import gc

_NEW_OBJECTS = 10_000
"""So many more made than freed start a collection of the youngest; Python's own figure is 700."""


def leave_alone_what_lives() -> None:
    """Look at what there is now for the last time, and at what comes less often."""
    gc.collect()
    gc.freeze()
    _, *older = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, *older)
