"""Hosts on one machine: network namespaces (Linux, as root), joined by a bridge in the backends' one."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

ADDRESS = "10.77.0.1"
"""Of the backends' host, which the bridge is in."""
BACKENDS = "backends"


@dataclass(frozen=True)
class Host:
    """A host with a network stack of its own, and the name of its plug at the bridge.

    Attributes:
        prefix: begins the namespaces' names of one run.
        number: the end of its address, 2 to 254.
    """

    prefix: str
    name: str
    number: int

    @property
    def address(self) -> str:
        """By which the others reach it."""
        return f"10.77.0.{self.number}"

    @property
    def plug(self) -> str:
        """Its end of the cable at the bridge."""
        return f"plug{self.number}"

    @property
    def enter(self) -> Sequence[str]:
        """The command that runs another one there."""
        return enter(self.prefix, self.name)

    def pull_the_plug(self) -> None:
        """Let nothing in or out, without a word to either side."""
        _ip("link", "set", self.plug, "down")

    def plug_in(self) -> None:
        """Let everything pass again."""
        _ip("link", "set", self.plug, "up")


def enter(prefix: str, name: str) -> Sequence[str]:
    """Return the command that runs another one on a host."""
    return ("ip", "netns", "exec", f"{prefix}-{name}")


@contextmanager
def open_backends_host(prefix: str) -> Iterator[None]:
    """Make the host of the backends, with the bridge; with it go the plugs of all others."""
    namespace = f"{prefix}-{BACKENDS}"
    _ip("netns", "add", namespace)
    try:
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", namespace, "address", "add", f"{ADDRESS}/24", "dev", "bridge0")
        _ip("-n", namespace, "link", "set", "bridge0", "up")
        yield
    finally:
        _ip("netns", "delete", namespace)


@contextmanager
def open_host(prefix: str, name: str, number: int) -> Iterator[Host]:
    """Make a host and plug it in; called on the backends' host."""
    host, namespace = Host(prefix, name, number), f"{prefix}-{name}"
    _ip("netns", "add", namespace)
    try:
        _ip("link", "add", host.plug, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", host.plug, "master", "bridge0", "up")
        for words in (("link", "set", "lo", "up"), ("link", "set", "eth0", "up")):
            _ip("-n", namespace, *words)
        _ip("-n", namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        yield host
    finally:
        _ip("netns", "delete", namespace)


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)
