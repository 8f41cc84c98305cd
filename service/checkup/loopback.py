"""The loopback: addresses that lead everybody to himself, and from a container to nobody else."""

import os

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_out_of_sight(host: str | None) -> bool:
    """Whether an address leads callers to their own machine, and us to the container that we are in.

    The image sets `container`, as managers of containers do that tell what they are (systemd's name for it).
    """
    return host in LOOPBACK and bool(os.environ.get("container"))  # noqa: SIM112  # that is its name
