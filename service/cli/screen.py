"""What is shown while something goes on: lines written over on a terminal, a line now and then elsewhere."""

import os
import shutil
import sys
from collections.abc import Sequence

_WIDEST_BAR = 40
_NARROWEST_BAR = 8
_STEP = 10.0


def note(text: str) -> None:
    """Say something beside the output, without breaking into a line that is written over."""
    start = "\r\x1b[K" if _is_screen(sys.stderr.isatty()) else ""
    sys.stderr.write(f"{start}autos: {text}\n")
    sys.stderr.flush()


def bar_line(label: str, percent: float, details: str, *, width: int) -> str:
    """Draw progress in one line of at most so many columns; the bar's length does not hang on the details.

    What has no room is cut: the details first, then the bar, in the end the label too.
    """
    said = f"{min(max(int(percent), 0), 100):3} %"
    length = min((width - len(label) - len(said)) // 3, _WIDEST_BAR)
    if length >= _NARROWEST_BAR:
        done = int(length * min(max(percent, 0.0), 100.0) / 100)
        said = f"[{'#' * done}{'-' * (length - done)}] {said}"
    return f"{label}  {said}  {details}"[:width] if len(label) + len(said) + 2 <= width else said[:width]


class Progress:
    """How far one thing has come; closed, it leaves no line behind that is half written.

    Elsewhere than on a terminal it says something when ten more percent are done, or the words change.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._is_screen = _is_screen(sys.stdout.isatty())
        self._said: tuple[float, str] | None = None

    def show(self, percent: float, details: str, *, state: str = "") -> None:
        """Show where it stands.

        Args:
            state: the word whose change is always worth a line.
        """
        if self._is_screen:
            line = bar_line(self._label, percent, f"{state}  {details}" if state else details, width=_width())
            sys.stdout.write(f"\r{line}\x1b[K")
        elif self._said != (said := (percent // _STEP, state)):
            self._said = said
            sys.stdout.write(f"{self._label}  {int(percent)} %  {state}{'  ' if state else ''}{details}\n")
        sys.stdout.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._is_screen:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()


class Table:
    """Lines that are written over when they change; on a terminal only."""

    def __init__(self) -> None:
        self._drawn = 0

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of those before; as many as there is room for."""
        width, height = _width(), max(shutil.get_terminal_size().lines - 1, 1)
        shown = [line[:width] for line in lines[:height]]
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        sys.stdout.write(up + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J")
        sys.stdout.flush()
        self._drawn = len(shown)


def is_live() -> bool:
    """Whether lines of the output can be written over."""
    return _is_screen(sys.stdout.isatty())


def _is_screen(is_terminal: bool) -> bool:
    return is_terminal and os.environ.get("TERM", "dumb") != "dumb"


def _width() -> int:
    # In the last column some terminals begin a new line.
    return max(shutil.get_terminal_size().columns - 1, 1)
