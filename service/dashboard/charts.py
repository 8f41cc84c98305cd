"""Small charts as SVG; what they show is told in words, too, to readers who do not see them."""

from collections.abc import Sequence

from markupsafe import Markup

_WIDTH, _HEIGHT = 240.0, 56.0


def bars(values: Sequence[float], label: str, *, marked: Sequence[float] = ()) -> Markup:
    """Return one bar for each value, from the oldest to the newest.

    Args:
        label: what a reader is told who cannot see it.
        marked: how much of each bar is of the kind that wants attention.
    """
    highest = max(max(values, default=0.0), 1e-9)
    step = _WIDTH / max(len(values), 1)
    shapes = []
    for place, value in enumerate(values):
        shapes.append(_bar("bar", place * step, step, value / highest))
        if place < len(marked) and marked[place]:
            shapes.append(_bar("bar marked", place * step, step, marked[place] / highest))
    return _image(label, Markup().join(shapes))


def line(values: Sequence[float | None], label: str, *, ceiling: float | None = None) -> Markup:
    """Return a line through the values; where one is None it is broken.

    Args:
        ceiling: the highest value that there could be.
    """
    known = [value for value in values if value is not None]
    highest = max([ceiling or 0.0, *known, 1e-9])
    step = _WIDTH / max(len(values) - 1, 1)
    commands, is_drawing = list[str](), False
    for place, value in enumerate(values):
        if value is not None:
            y = _HEIGHT - 2 - (value / highest) * (_HEIGHT - 4)
            commands.append(f"{'L' if is_drawing else 'M'}{place * step:.1f} {y:.1f}")
        is_drawing = value is not None
    path = Markup('<path class="line" d="{}"/>').format(" ".join(commands))
    return _image(label, path if known else Markup())


def _bar(kind: str, x: float, width: float, share: float) -> Markup:
    height = max(share * (_HEIGHT - 2), 1.0 if share else 0.0)
    return Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1"/>').format(
        kind, x, _HEIGHT - height, max(width - 1, 0.5), height
    )


def _image(label: str, content: Markup) -> Markup:
    return Markup(
        '<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {:.0f} {:.0f}" '
        'preserveAspectRatio="none">'
        '<line class="axis" x1="0" x2="{:.0f}" y1="{:.1f}" y2="{:.1f}"/>{}</svg>'
    ).format(label, _WIDTH, _HEIGHT, _WIDTH, _HEIGHT - 0.5, _HEIGHT - 0.5, content)
