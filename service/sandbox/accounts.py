"""The account that PostgreSQL runs under when root starts it (it refuses to run as root)."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from service.sandbox.state import SandboxError


@dataclass(frozen=True)
class Account:
    """A user without privileges, by numbers."""

    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Return the account to drop to, or None when we are not root and can stay who we are.

    Raises:
        SandboxError: root, on a machine that has neither `nobody` nor `postgres`.
    """
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "postgres"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise SandboxError("PostgreSQL does not run as root, and there is no user 'nobody' to run it as")


def can_reach(account: Account | None, path: Path) -> bool:
    """Whether the account may enter every folder above an existing path, and enter or execute the path."""
    if account is None:
        return os.access(path, os.X_OK)
    resolved = path.resolve()
    return all(_may_enter(account, part) for part in (resolved, *resolved.parents))


def _may_enter(account: Account, path: Path) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
