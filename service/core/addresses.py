"""Which URLs a webhook may have, and which addresses a connection may go to.

Two questions, asked one after the other: the URL is judged by its text alone, without DNS
(`parse_destination`), and every address is judged again when a socket is made for it
(`OutboundPolicy.allows`). The tables are written out because `ipaddress.is_global` answers another
question, and not the same one in every release of Python.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

import yarl

from service.core.errors import DestinationRefusedError
from service.core.settings import Settings

Address: TypeAlias = IPv4Address | IPv6Address

MAX_URL_LENGTH = 2048

# IPv4: everything but these.
_REFUSED_IPV4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # "this host": Linux connects it to itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a carrier's NAT; one cloud keeps its metadata here
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; another cloud's metadata
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# IPv6: nothing but global unicast, and of that not these. NAT64, ULA, link-local, site-local, multicast
# and the embedded forms of IPv4 lie outside 2000::/3, except 6to4 and Teredo.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_REFUSED_IPV6 = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # the 6bone of old
        "3fff::/20",  # documentation
    )
)
# What the sandbox's policy opens beside the public addresses.
_PRIVATE_IPV4 = tuple(
    IPv4Network(block) for block in ("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
_PRIVATE_IPV6 = (IPv6Network("::1/128"), IPv6Network("fc00::/7"))
# Metadata services: most clouds, Azure, Alibaba, Oracle.
_METADATA_IPV4 = tuple(
    IPv4Network(host)
    for host in ("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32")
)
# Likewise among the unique local addresses: AWS, Oracle, Google.
_METADATA_IPV6 = (IPv6Network("fd00:ec2::/32"), IPv6Network("fd00:c1::/32"), IPv6Network("fd20:ce::/32"))

# Last labels that never name a host on the public internet: reserved by RFC, or in use on private networks.
_SPECIAL_SUFFIX = re.compile(
    "alt|arpa|cluster|consul|corp|docker|example|home|i2p|internal|intranet|invalid|lan|local|localdomain|"
    "localhost|mail|onion|private|svc|test|workgroup"
)

_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(/[^?]*)?(?:\?(.*))?")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([1-9][0-9]{0,4}))?")
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
# Brackets, braces and the bar are no legal query by RFC 3986, but receivers' frameworks ask for them.
_QUERY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]{}|-]|%[0-9A-Fa-f]{2})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_TOP_LABEL = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]+")


@dataclass(frozen=True)
class OutboundPolicy:
    """Where requests to callers' URLs may go.

    `allow_private` is the sandbox's policy, a whole of its own: http too, any port, any name, and
    loopback and private addresses. Metadata services stay closed under every policy.
    """

    allow_private: bool = False
    ports: frozenset[int] = frozenset({443, 8443})
    schemes: frozenset[str] = frozenset({"https"})
    literals: bool = False
    """Whether a public address may stand in the URL in place of a name."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """What the operator opens beside the public addresses; they may stand in the URL too."""
    allowed_hosts: frozenset[str] = frozenset()
    """The only hosts that may be called, and the names below them, in lower case; empty for all."""
    denied_hosts: frozenset[str] = frozenset()
    """Names that may not be called, nor any name below them; in lower case."""

    @classmethod
    def from_settings(cls, settings: Settings) -> "OutboundPolicy":
        """The policy that the operator chose."""
        return cls(
            allow_private=settings.webhook_allow_private,
            ports=frozenset(settings.webhook_ports),
            schemes=frozenset(settings.webhook_schemes),
            literals=settings.webhook_literals,
            networks=settings.webhook_networks,
            allowed_hosts=_as_hosts(settings.webhook_allowed_hosts),
            denied_hosts=_as_hosts(settings.webhook_denied_hosts),
        )

    def allows(self, address: str) -> bool:
        """Whether a connection to this address, as DNS or a socket writes it, may be made."""
        try:
            parsed = _unmapped(ip_address(address))
        except ValueError:
            return False
        if "%" in address:  # a zone: an address of this machine's own links
            return False
        return (
            _is_public(parsed)
            or (self.allow_private and _is_private(parsed))
            or (self.opens(parsed) and not _is_metadata(parsed))
        )

    def opens(self, address: Address) -> bool:
        """Whether the address lies in a network that the operator opened."""
        return any(address in network for network in self.networks)

    def denies(self, host: str) -> bool:
        """Whether the operator closed this host, or one above it."""
        return _is_in(host, self.denied_hosts)

    def leaves_out(self, host: str) -> bool:
        """Whether the operator named the hosts that may be called, and neither this one nor one above it."""
        return bool(self.allowed_hosts) and not _is_in(host, self.allowed_hosts)


def _as_hosts(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.lower().strip(".") for name in names)


def _is_in(host: str, hosts: frozenset[str]) -> bool:
    """Whether the host, or one above it, is among these."""
    labels = host.split(".")
    return any(".".join(labels[start:]) in hosts for start in range(len(labels)))


@dataclass(frozen=True)
class Destination:
    """A URL that passed, in the one form in which it is stored and called.

    Host and scheme are in lower case, a default port and a name's final dot are left out; path and query
    stand byte for byte as the caller wrote them.
    """

    url: yarl.URL
    host: str
    port: int


def parse_destination(url: str, policy: OutboundPolicy) -> Destination:
    """Read a webhook URL and hold it against the policy; asks no DNS.

    Raises:
        DestinationRefusedError: it may not be called; the message names the rule.
    """
    _check_characters(url)
    parts = _PARTS.fullmatch(url)
    if parts is None:
        raise DestinationRefusedError("the URL must be absolute: https://host/path")
    scheme = _checked_scheme(parts[1].lower(), policy)
    host, port = _checked_authority(parts[2], scheme, policy)
    target = _checked_target(parts[3] or "/", parts[4] or "")
    authority = (f"[{host}]" if ":" in host else host) + ("" if port == _default_port(scheme) else f":{port}")
    # `encoded` keeps yarl from rewriting what the caller wrote: dot segments, escapes, their letter case.
    destination = Destination(yarl.URL(f"{scheme}://{authority}{target}", encoded=True), host, port)
    _check_that_yarl_agrees(url, scheme, destination)
    return destination


def _check_characters(url: str) -> None:
    if len(url) > MAX_URL_LENGTH:
        raise DestinationRefusedError(f"the URL is longer than {MAX_URL_LENGTH} characters")
    if any(not "!" <= character <= "~" for character in url):
        raise DestinationRefusedError(
            "the URL may hold only printable ASCII without spaces: write international names as xn--…, "
            "other characters percent-encoded"
        )
    if "\\" in url:
        raise DestinationRefusedError("the URL may not hold a backslash")
    if "#" in url:
        raise DestinationRefusedError("the URL may not have a fragment")


def _checked_scheme(scheme: str, policy: OutboundPolicy) -> str:
    allowed = policy.schemes | ({"http", "https"} if policy.allow_private else frozenset())
    if scheme not in allowed:
        raise DestinationRefusedError(f"the scheme must be {' or '.join(sorted(allowed))}")
    return scheme


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _checked_authority(authority: str, scheme: str, policy: OutboundPolicy) -> tuple[str, int]:
    """Return the canonical host and the port."""
    if "@" in authority:
        raise DestinationRefusedError("the URL may not hold a user name or password")
    parts = _AUTHORITY.fullmatch(authority)
    port = int(parts[2] or _default_port(scheme)) if parts else 0
    if parts is None or port > 65_535:
        raise DestinationRefusedError("the URL has no proper host and port")
    if not policy.allow_private and port not in policy.ports:
        allowed = ", ".join(map(str, sorted(policy.ports)))
        raise DestinationRefusedError(f"the port is not one of those allowed: {allowed}")
    host = _parse_host(parts[1])
    _check_host(host, policy)
    return str(host), port


def _checked_target(path: str, query: str) -> str:
    if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        raise DestinationRefusedError(
            "the URL's path or query holds a character that must be percent-encoded, or a broken escape"
        )
    return f"{path}?{query}" if query else path


def _parse_host(text: str) -> Address | str:
    """Return the address that a literal spells, unmapped, or the name in lower case without a final dot."""
    name = text.lower()
    try:
        if name.startswith("["):
            return _unmapped(IPv6Address(name[1:-1]))
        # What ends in a number is an address to some resolvers, in a dozen spellings; one is enough.
        if _NUMBER.fullmatch(name.removesuffix(".").rpartition(".")[2]):
            return IPv4Address(name)
    except ValueError:
        raise DestinationRefusedError("the host looks like an address but is no proper one") from None
    return name.removesuffix(".")


def _check_host(host: Address | str, policy: OutboundPolicy) -> None:
    if policy.denies(str(host)):
        raise DestinationRefusedError("the host may not be called")
    if policy.leaves_out(str(host)):
        raise DestinationRefusedError("the host is not one of those that may be called")
    if isinstance(host, str):
        _check_name(host, policy)
    elif not policy.allows(str(host)):
        raise DestinationRefusedError("the host is an address on a private or reserved network")
    elif not policy.literals and not policy.allow_private and not policy.opens(host):
        raise DestinationRefusedError("the host must be a name, not an address")


def _check_name(name: str, policy: OutboundPolicy) -> None:
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise DestinationRefusedError("the host is not a proper name")
    if policy.allow_private:
        return
    if len(labels) == 1:
        raise DestinationRefusedError("the host must be a full name with its domain")
    if _SPECIAL_SUFFIX.fullmatch(labels[-1]):
        raise DestinationRefusedError(f"names under .{labels[-1]} are not on the public internet")
    if not _TOP_LABEL.fullmatch(labels[-1]):
        raise DestinationRefusedError("the host does not end in a proper top-level domain")


def _check_that_yarl_agrees(url: str, scheme: str, destination: Destination) -> None:
    """Refuse what the HTTP client's own parser would read otherwise, international names included."""
    try:
        agrees = _as_yarl_reads(url) == (scheme, destination.host, destination.port, None, None, "")
    except ValueError:
        agrees = False
    if not agrees:
        raise DestinationRefusedError("the host is not a proper name, or can be read in more than one way")


def _as_yarl_reads(url: str) -> tuple[str, str, int | None, str | None, str | None, str]:
    """Raises ValueError when yarl cannot read the URL."""
    seen = yarl.URL(url)
    # There and back: an xn-- label may stand for nothing, or for what would be written otherwise.
    host = yarl.URL.build(scheme=seen.scheme, host=seen.host or "").raw_host or ""
    canonical = str(_parse_host(f"[{host}]" if ":" in host else host))
    return seen.scheme, canonical, seen.port, seen.user, seen.password, seen.raw_fragment


def _unmapped(address: Address) -> Address:
    """An IPv4 address in IPv6 clothes is judged, and called, as the IPv4 address it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _REFUSED_IPV4)
    return address in _GLOBAL_IPV6 and not any(address in block for block in _REFUSED_IPV6)


def _is_private(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return any(address in block for block in _PRIVATE_IPV4)
    return any(address in block for block in _PRIVATE_IPV6) and not _is_metadata(address)


def _is_metadata(address: Address) -> bool:
    blocks = _METADATA_IPV4 if isinstance(address, IPv4Address) else _METADATA_IPV6
    return any(address in block for block in blocks)
