"""The text of a webhook URL and the addresses behind it, judged without a network."""

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.addresses import OutboundPolicy, parse_destination
from service.core.errors import DestinationRefusedError
from service.core.settings import Settings

STRICT = OutboundPolicy()
# An operator who opens plain HTTP and public addresses, but nothing private.
OPEN = OutboundPolicy(
    schemes=frozenset({"http", "https"}), ports=frozenset({80, 443, 8080, 8443}), literals=True
)
SANDBOX = OutboundPolicy(allow_private=True)

ACCEPTED = {
    "https://avisos.escritorio.com.br/autos": "https://avisos.escritorio.com.br/autos",
    "https://avisos.escritorio.com.br:443/autos": "https://avisos.escritorio.com.br/autos",
    "https://avisos.escritorio.com.br:8443/autos": "https://avisos.escritorio.com.br:8443/autos",
    "HTTPS://Avisos.Escritorio.COM.BR/Autos": "https://avisos.escritorio.com.br/Autos",
    "https://avisos.escritorio.com.br./autos": "https://avisos.escritorio.com.br/autos",
    "https://avisos.escritorio.com.br": "https://avisos.escritorio.com.br/",
    "https://avisos.escritorio.com.br?chave=1": "https://avisos.escritorio.com.br/?chave=1",
    "https://avisos.escritorio.com.br/?chave": "https://avisos.escritorio.com.br/?chave",
    "https://avisos.escritorio.com.br/a/../b/./c": "https://avisos.escritorio.com.br/a/../b/./c",
    "https://avisos.escritorio.com.br//duas": "https://avisos.escritorio.com.br//duas",
    "https://avisos.escritorio.com.br/%7Ejo%C3%A3o/%2e": "https://avisos.escritorio.com.br/%7Ejo%C3%A3o/%2e",
    "https://avisos.escritorio.com.br/para:maria@cartorio:80": (
        "https://avisos.escritorio.com.br/para:maria@cartorio:80"
    ),
    "https://avisos.escritorio.com.br/?ids[]=1|2&para=http://10.0.0.1/": (
        "https://avisos.escritorio.com.br/?ids[]=1|2&para=http://10.0.0.1/"
    ),
    "https://xn--escritrio-b7a.com.br/autos": "https://xn--escritrio-b7a.com.br/autos",
    "https://10.0.0.1.escritorio.com.br/autos": "https://10.0.0.1.escritorio.com.br/autos",
    "https://192-168-0-1.escritorio.com.br/autos": "https://192-168-0-1.escritorio.com.br/autos",
    "https://1password.escritorio.com/autos": "https://1password.escritorio.com/autos",
}


@pytest.mark.parametrize(("url", "canonical"), ACCEPTED.items())
def test_a_public_name_is_accepted_in_one_canonical_form(url: str, canonical: str) -> None:
    destination = parse_destination(url, STRICT)
    assert str(destination.url) == canonical
    assert parse_destination(canonical, STRICT) == destination


def test_the_destination_names_the_host_and_the_port_that_are_called() -> None:
    destination = parse_destination("https://Avisos.Escritorio.com.br.:8443/autos", STRICT)
    assert (destination.host, destination.port) == ("avisos.escritorio.com.br", 8443)
    assert (destination.url.raw_host, destination.url.port) == ("avisos.escritorio.com.br", 8443)


REFUSED = {
    "characters": [
        "https://avisos.escritorio.com.br/autos\n",
        "\thttps://avisos.escritorio.com.br/autos",
        " https://avisos.escritorio.com.br/autos",
        "ht\rtps://avisos.escritorio.com.br/autos",
        "https://avisos.escritorio.com.br/a b",
        "https://avisos.escritorio.com.br/\x00",
        "https://avisos.escritorio.com.br\x7f/",
        "https://avisos.escritorio.com.br/x HTTP/1.1\r\nHost: outro\r\n\r\nGET /",
        "https://avisos.escritorio.com.br/petição",
        "https://escritório.com.br/",
        "https://avisos。escritorio。com/",
        "https://escri\u200btorio.com.br/",
        "https://escritorio.com.br\u2028/",
        "https://escritorio.com.br\uff0f@10.0.0.1/",
        "https://10.0.0.1\u2044.escritorio.com.br/",
        "https://①⓪.⓪.⓪.①/",
        "https://\uff11\uff19\uff12\uff0e\uff11\uff16\uff18\uff0e\uff10\uff0e\uff11/",
        "https://\u0661\u0660.\u0660.\u0660.\u0661/",
    ],
    "backslash": [
        "https://10.0.0.1\\@avisos.escritorio.com.br/",
        "https://avisos.escritorio.com.br/\\..\\segredo",
    ],
    "fragment": [
        "https://avisos.escritorio.com.br/autos#topo",
        "https://10.0.0.1#.escritorio.com.br/",
        "https://avisos.escritorio.com.br#@10.0.0.1/",
    ],
    "absolute": [
        "",
        "avisos.escritorio.com.br",
        "//avisos.escritorio.com.br/autos",
        "/autos",
        "https:avisos.escritorio.com.br",
        "javascript:alert(1)",
        "mailto:maria@escritorio.com.br",
    ],
    "scheme": [
        "http://avisos.escritorio.com.br/autos",
        "ftp://avisos.escritorio.com.br/autos",
        "gopher://avisos.escritorio.com.br:70/_x",
        "file://avisos.escritorio.com.br/etc/hosts",
        "wss://avisos.escritorio.com.br/autos",
        "redis://10.0.0.1:6379/",
    ],
    "user name": [
        "https://maria:senha@avisos.escritorio.com.br/autos",
        "https://avisos.escritorio.com.br@10.0.0.1/",
        "https://@avisos.escritorio.com.br/",
        "https://:@avisos.escritorio.com.br/",
        "https://a@b@avisos.escritorio.com.br/",
    ],
    "proper host and port": [
        "https://",
        "https:///avisos.escritorio.com.br/",
        "https://avisos.escritorio.com.br:/autos",
        "https://avisos.escritorio.com.br:0/autos",
        "https://avisos.escritorio.com.br:65536/autos",
        "https://avisos.escritorio.com.br:-443/autos",
        "https://avisos.escritorio.com.br:+443/autos",
        "https://avisos.escritorio.com.br:0443/autos",
        "https://avisos.escritorio.com.br:0x1bb/autos",
        "https://avisos.escritorio.com.br:443:443/autos",
        "https://avisos.escritorio.com.br%40:443/autos",
        "https://%31%30.0.0.1/",
        "https://local%68ost/",
        "https://10.0.0.1%00.escritorio.com.br/",
        "https://10.0.0.1;escritorio.com.br/",
        "https://{10.0.0.1}/",
        "https://$HOST/",
        "https://meu_host.escritorio.com.br/",
        "https://::1/",
        "https://[::1/",
        "https://[[::1]]/",
        "https://[]/",
        "https://[escritorio.com.br]/",
        "https://[fe80::1%eth0]/",
        "https://[v1.fe80::1]/",
    ],
    "port is not one": [
        f"https://avisos.escritorio.com.br:{port}/autos" for port in (1, 22, 25, 80, 5432, 6379, 8080, 65535)
    ],
    "not a proper name": [
        "https://./",
        "https://../",
        "https://.escritorio.com.br/",
        "https://avisos..escritorio.com.br/",
        "https://avisos.escritorio.com.br../",
        "https://-avisos.escritorio.com.br/",
        "https://avisos-.escritorio.com.br/",
        f"https://{'a' * 64}.escritorio.com.br/",
        f"https://{'.'.join(['a' * 50] * 5)}.com.br/",
        "https://xn--.com.br/",
        "https://xn--a.com.br/",
    ],
    "looks like an address": [
        "https://167772161/",
        "https://0/",
        "https://10.1/",
        "https://10.0.1/",
        "https://0x0a000001/",
        "https://0x0a.0.0.1/",
        "https://0xa.1./",
        "https://0x/",
        "https://012.0.0.1/",
        "https://10.0.0.01/",
        "https://010.000.000.001/",
        "https://1.2.3.4.5/",
        "https://1.2.3.256/",
        "https://4294967296/",
        "https://1.2.3.4./",
        "https://escritorio.0x7f/",
        "https://escritorio.99/",
        "https://[:]/",
        "https://[1::2::3]/",
        "https://[::ffff:10.1]/",
        "https://[10.0.0.1]/",
        "https://[11.0.0.1]/",
    ],
    "full name": ["https://localhost/", "https://banco/", "https://wpad./", "https://ip6-loopback/"],
    "public internet": [
        f"https://{name}/"
        for name in (
            "banco.localhost",
            "localhost.localdomain",
            "impressora.local",
            "roteador.lan",
            "nas.home",
            "nas.home.arpa",
            "1.0.0.10.in-addr.arpa",
            "intranet.corp",
            "metadata.provedor.internal",
            "api.default.svc",
            "api.default.svc.cluster.local",
            "portal.intranet",
            "escritorio.test",
            "escritorio.example",
            "escritorio.invalid.",
            "escritorio.ONION",
        )
    ],
    "top-level domain": ["https://escritorio.c0m/", "https://escritorio.x/", "https://escritorio.a-b/"],
    "percent-encoded": [
        "https://avisos.escritorio.com.br/100%",
        "https://avisos.escritorio.com.br/%zz",
        "https://avisos.escritorio.com.br/<a>",
        'https://avisos.escritorio.com.br/?"',
    ],
    "not an address": ["https://11.0.0.1/", "https://[2606:4700:10::1]/"],
}


@pytest.mark.parametrize(("rule", "url"), [(rule, url) for rule, urls in REFUSED.items() for url in urls])
def test_a_url_outside_the_grammar_is_refused_and_the_rule_is_named(rule: str, url: str) -> None:
    with pytest.raises(DestinationRefusedError, match=rule):
        parse_destination(url, STRICT)


def test_a_url_of_2048_characters_passes_and_one_more_does_not() -> None:
    url = "https://avisos.escritorio.com.br/".ljust(2048, "a")
    parse_destination(url, STRICT)
    with pytest.raises(DestinationRefusedError, match="2048"):
        parse_destination(url + "a", STRICT)


@pytest.mark.parametrize("label", ["xn--orh", "xn--wca", "xn--escritrio-p6b", "xn--999999999"])
def test_an_international_label_that_stands_for_no_name_of_its_own_is_refused(label: str) -> None:
    """A digit in a circle, a capital letter, a spelling that is not the one, no spelling at all."""
    with pytest.raises(DestinationRefusedError, match="not a proper name"):
        parse_destination(f"https://{label}.com.br/", STRICT)


PRIVATE = ["10.0.0.0", "10.255.255.255", "127.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1"]
PRIVATE += ["::1", "fc00::1", "fd12:3456:789a::1", "::ffff:127.0.0.1", "::ffff:c0a8:1"]

RESERVED = [
    *("0.0.0.0", "0.255.255.255", "100.64.0.0", "100.100.100.200", "100.127.255.255", "168.63.129.16"),
    *("169.254.0.1", "169.254.169.254", "169.254.170.2", "192.0.0.8", "192.0.0.170", "192.0.0.192"),
    *("192.0.2.9", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1", "198.18.0.1"),
    *("198.19.255.255", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    "255.255.255.255",
    *("::", "::10.0.0.1", "::ffff:0.0.0.0", "::ffff:169.254.169.254", "::ffff:100.64.0.1"),
    *("::ffff:0:10.0.0.1", "64:ff9b::a00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "1fff::1"),
    *("2001::1", "2001:0:53aa:64c::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:1ff::1"),
    *("2001:db8::1", "2002:a00:1::1", "2002:808:808::1", "2620:4f:8000::1", "3ffe::1", "3fff::1"),
    *("4000::1", "5f00::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254"),
    "fd00:c1::a9fe:a9fe",
]
PUBLIC = [
    *("1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.1", "168.63.129.15", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
    *("192.0.1.1", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
    *(
        "2001:200::1",
        "2001:4860::1",
        "2606:4700:10::1",
        "2804:14d::1",
        "2a00::1",
        "3ffd::1",
        "::ffff:8.8.8.8",
    ),
]
NO_ADDRESS = [
    "",
    "localhost",
    "127.1",
    "0x7f000001",
    "010.0.0.1",
    "fe80::1%lo",
    "2606:4700::1%eth0",
    "1.1.1.1 ",
]


def literal(address: str) -> str:
    return f"http://[{address}]/autos" if ":" in address else f"http://{address}/autos"


@pytest.mark.parametrize("address", PRIVATE + RESERVED)
def test_an_address_outside_the_public_internet_is_refused_literal_or_looked_up(address: str) -> None:
    assert not STRICT.allows(address)
    with pytest.raises(DestinationRefusedError, match="private or reserved"):
        parse_destination(literal(address), OPEN)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed_from_dns_and_where_opened_as_a_literal(address: str) -> None:
    assert STRICT.allows(address)
    parse_destination(literal(address), OPEN)


@pytest.mark.parametrize("address", NO_ADDRESS)
def test_what_is_no_plain_address_is_never_connected_to(address: str) -> None:
    assert not STRICT.allows(address)
    assert not SANDBOX.allows(address)


@pytest.mark.parametrize("address", PRIVATE + PUBLIC)
def test_the_sandbox_reaches_private_and_public_addresses(address: str) -> None:
    assert SANDBOX.allows(address)
    parse_destination(literal(address), SANDBOX)


@pytest.mark.parametrize("address", RESERVED)
def test_the_sandbox_reaches_no_metadata_service_and_nothing_reserved(address: str) -> None:
    assert not SANDBOX.allows(address)
    with pytest.raises(DestinationRefusedError, match="private or reserved"):
        parse_destination(literal(address), SANDBOX)


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("http://localhost:9000/aviso", "http://localhost:9000/aviso"),
        ("https://localhost/aviso", "https://localhost/aviso"),
        ("http://127.0.0.1:80/aviso", "http://127.0.0.1/aviso"),
        ("http://[0:0:0:0:0:0:0:1]:9000/aviso", "http://[::1]:9000/aviso"),
        ("http://[::ffff:7f00:1]:9000/aviso", "http://127.0.0.1:9000/aviso"),
        ("http://recebedor:1/aviso", "http://recebedor:1/aviso"),
    ],
)
def test_the_sandbox_takes_http_any_port_and_local_names(url: str, canonical: str) -> None:
    destination = parse_destination(url, SANDBOX)
    assert str(destination.url) == canonical
    assert parse_destination(canonical, SANDBOX) == destination


@pytest.mark.parametrize(
    "url", ["http://127.1/", "http://0x7f.1/", "ftp://localhost/", "http://a@localhost/"]
)
def test_the_sandbox_keeps_the_grammar(url: str) -> None:
    with pytest.raises(DestinationRefusedError):
        parse_destination(url, SANDBOX)


def test_the_policy_follows_the_settings() -> None:
    assert OutboundPolicy.from_settings(Settings(webhook_allow_private=False)) == STRICT
    assert OutboundPolicy.from_settings(Settings(webhook_ports=(443, 9443))).ports == {443, 9443}
    assert OutboundPolicy.from_settings(Settings(webhook_allow_private=True)).allow_private
    opened = Settings(
        webhook_schemes=("https", "http"), webhook_literals=True, webhook_ports=(80, 443, 8080, 8443)
    )
    assert OutboundPolicy.from_settings(opened) == OPEN


def test_an_operators_network_is_open_from_dns_and_as_a_literal_and_nothing_beside_it_is() -> None:
    networks = (IPv4Network("10.20.0.0/16"), IPv6Network("fd12:3456::/32"))
    policy = OutboundPolicy.from_settings(Settings(webhook_networks=networks))
    for address in ("10.20.0.1", "10.20.255.255", "fd12:3456::1", "::ffff:10.20.0.1"):
        assert policy.allows(address), address
    for address in ("10.21.0.1", "127.0.0.1", "fd12:3457::1", "::1", "fe80::1"):
        assert not policy.allows(address), address
    assert parse_destination("https://10.20.0.1/", policy).host == "10.20.0.1"
    assert parse_destination("https://[fd12:3456::1]:8443/", policy).port == 8443
    for url in ("https://10.21.0.1/", "https://93.184.216.34/", "http://10.20.0.1/", "https://10.20.0.1:22/"):
        with pytest.raises(DestinationRefusedError):
            parse_destination(url, policy)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"],
)
def test_no_network_that_an_operator_opens_opens_a_metadata_service(address: str) -> None:
    everything = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
    policy = OutboundPolicy(networks=everything, allow_private=True, literals=True)
    assert not policy.allows(address)
    assert policy.allows("10.0.0.1")


@pytest.mark.parametrize(
    ("url", "is_denied"),
    [
        ("https://rival.com.br/", True),
        ("https://RIVAL.com.br./", True),
        ("https://a.b.rival.com.br/", True),
        ("https://notrival.com.br/", False),
        ("https://rival.com.br.escritorio.com/", False),
    ],
)
@pytest.mark.parametrize("policy", [STRICT, OPEN, SANDBOX], ids=["strict", "open", "sandbox"])
def test_a_name_that_the_operator_closed_is_closed_with_all_below_it(
    url: str, is_denied: bool, policy: OutboundPolicy
) -> None:
    closed = replace(policy, denied_hosts=frozenset({"rival.com.br"}))
    assert OutboundPolicy.from_settings(Settings(webhook_denied_hosts=("Rival.com.br.",))).denied_hosts == {
        "rival.com.br"
    }
    if is_denied:
        with pytest.raises(DestinationRefusedError, match="may not be called"):
            parse_destination(url, closed)
    else:
        assert parse_destination(url, closed).port == 443


@pytest.mark.parametrize(
    ("url", "refusal"),
    [
        ("https://escritorio.com.br/", None),
        ("https://HOOKS.escritorio.com.br./", None),
        ("https://old.escritorio.com.br/", "the host may not be called"),
        ("https://a.old.escritorio.com.br/", "the host may not be called"),
        ("https://notescritorio.com.br/", "the host is not one of those"),
        ("https://escritorio.com.br.rival.com/", "the host is not one of those"),
        ("https://com.br/", "the host is not one of those"),
        ("https://93.184.216.34/", "the host is not one of those"),
    ],
)
@pytest.mark.parametrize("policy", [STRICT, OPEN, SANDBOX], ids=["strict", "open", "sandbox"])
def test_of_names_that_the_operator_allowed_no_other_is_called_and_a_closed_one_stays_closed(
    url: str, refusal: str | None, policy: OutboundPolicy
) -> None:
    settings = Settings(
        webhook_allowed_hosts=("Escritorio.com.br.",), webhook_denied_hosts=("old.escritorio.com.br",)
    )
    chosen = OutboundPolicy.from_settings(settings)
    closed = replace(policy, allowed_hosts=chosen.allowed_hosts, denied_hosts=chosen.denied_hosts)
    if refusal is None:
        assert parse_destination(url, closed).port == 443
    else:
        with pytest.raises(DestinationRefusedError, match=refusal):
            parse_destination(url, closed)


@given(st.integers(min_value=0, max_value=2**128 - 1))
def test_no_ipv6_address_outside_global_unicast_is_public_but_mapped_ipv4(number: int) -> None:
    address = IPv6Address(number)
    if STRICT.allows(str(address)):
        assert address.ipv4_mapped or number >> 125 == 0b001


@given(st.text(alphabet=st.sampled_from("htps:/?#[]@\\%.0123456789abcdefx-_ \t\u2460é"), max_size=60))
def test_any_text_is_either_refused_or_canonical(text: str) -> None:
    for policy in (STRICT, OPEN, SANDBOX):
        for url in (text, f"https://{text}", f"http://exemplo.com{text}"):
            try:
                destination = parse_destination(url, policy)
            except DestinationRefusedError:
                continue
            assert parse_destination(str(destination.url), policy) == destination
