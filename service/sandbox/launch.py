"""Become another program that dies with its parent.

Started as a script of its own, `launch.py PARENT SIGNAL UID GID PROGRAM ARGUMENT…`, because it must run
between fork and exec without the dangers of `preexec_fn`. A UID of -1 keeps the present user. It drops
the user itself: that user may not be able to reach this Python, while root has already loaded it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:  # pragma: no cover - it becomes another program before it could report
    """Drop the user, ask the kernel for a signal at the parent's death, and become the program."""
    parent, death_signal, uid, gid = (int(argument) for argument in sys.argv[1:5])
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After the change of user: the kernel forgets the wish when a process changes it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        sys.exit("the parent died before its child started")
    # Python ignores SIGPIPE, and a program inherits what is ignored.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(sys.argv[5], sys.argv[5:])


if __name__ == "__main__":
    main()
