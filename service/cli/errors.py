"""What can go wrong for a caller at the command line; each message is one line for people."""

from service.core.errors import AutosError


class UsageError(AutosError):
    """The command cannot be meant so; the message says what would be right."""


class CallError(AutosError):
    """The API did not give what was asked for."""


class UnreachableError(CallError):
    """No answer came."""


class RefusedCallError(CallError):
    """The API answered with a problem.

    Args:
        code: the last part of the problem's type; empty when it was none of ours.
    """

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
