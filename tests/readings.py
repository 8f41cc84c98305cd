"""What the metrics of this process show, and how they moved since a moment."""

from service.core.metrics import REGISTRY


def reading(name: str, **labels: str) -> float:
    """Return the value of one series; 0 before it is there."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Readings:
    """All values as they are now, to say later by how much they have moved."""

    def __init__(self) -> None:
        self._before = _all_series()

    def moved(self, name: str, **labels: str) -> float:
        """Return by how much one series has moved."""
        return reading(name, **labels) - self._before.get((name, frozenset(labels.items())), 0.0)

    def all_moved(self, suffix: str) -> dict[str, float]:
        """Return by how much each series moved that did, of the names with this end."""
        return {
            f"{name}{dict(sorted(labels))}": value - self._before.get((name, labels), 0.0)
            for (name, labels), value in _all_series().items()
            if name.endswith(suffix) and value != self._before.get((name, labels), 0.0)
        }


def _all_series() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
    }
