"""A look at a receiver, step by step, in words for whoever runs it.

It says nothing that would make it an oracle for networks behind us: a name without an address and one with
an address that may not be called are one answer; so are a closed port, a filtered one and a slow one, without
times.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import aiohttp

from service.core.errors import DestinationRefusedError
from service.core.outbound import DeliveryFailedError, Kind, Outbound, Timing

Step: TypeAlias = Literal["url", "dns", "connection", "tls", "http"]

STEPS: tuple[Step, ...] = ("url", "dns", "connection", "tls", "http")

# At which step each kind of failure ends the look, and what may help.
_FAILURES: Mapping[Kind, tuple[Step, str]] = {
    "refused_destination": (
        "dns",
        "the name has no address that may be called: check its A and AAAA records",
    ),
    "dns": ("dns", "the name has no address that may be called: check its A and AAAA records"),
    "connection": ("connection", "nothing answered: a closed port, a firewall, or a server that is down"),
    "timeout": ("connection", "nothing answered: a closed port, a firewall, or a server that is down"),
    "protocol": ("http", "what answered is no HTTP: is this the port of a web server?"),
    "tls": ("tls", "no TLS connection could be made: it has to be TLS 1.2 or newer"),
}

# OpenSSL's X509_V_ERR codes (openssl-verification-options(1)).
_CERTIFICATES = {
    9: "the certificate is not valid yet: is the clock of the server right?",
    10: "the certificate has expired",
    18: "the certificate is signed by itself: take one of a public authority",
    19: "the certificate is of an authority that nobody knows: take one of a public authority",
    20: "the chain of certificates is not whole: serve the intermediate ones too",
    62: "the certificate is for another name",
}


_STATUSES: dict[int, tuple[bool, str]] = {
    401: (False, "it wants credentials, or a firewall before it turns us away"),
    403: (False, "it wants credentials, or a firewall before it turns us away"),
    404: (False, "there is nothing at this path, or nothing that answers HEAD: try webhook-send-test"),
    405: (True, "it does not know HEAD, which is fine: webhooks are POST"),
    410: (False, "it says that it is gone: 410 disables an endpoint"),
    429: (False, "it says that it has had too many requests"),
    501: (True, "it does not know HEAD, which is fine: webhooks are POST"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One step; `is_well` is None when it was not reached, or there is none."""

    step: Step
    is_well: bool | None
    explanation: str
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found; without an answer `status` and `duration_s` are None."""

    findings: list[Finding]
    status: int | None
    duration_s: float | None
    error: str | None


async def examine(outbound: Outbound, url: str, *, timeout_s: float) -> Diagnosis:
    """Ask the receiver with HEAD, and say how far that came; the caller has a turn at the endpoint."""
    timing = Timing()
    try:
        reply = await outbound.probe(url, timeout_s=timeout_s, timing=timing)
    except DestinationRefusedError as error:
        return Diagnosis(_until("url", str(error), timing, url), None, None, str(error))
    except DeliveryFailedError as error:
        step, explanation = _FAILURES.get(error.kind, ("connection", str(error)))
        if step == "tls":
            explanation = _certificate(error) or explanation
        return Diagnosis(_until(step, explanation, timing, url), None, None, str(error))
    is_well, explanation = _status(reply.status)
    findings = [*_before("http", timing, url), Finding("http", is_well, explanation, reply.duration_s)]
    return Diagnosis(findings, reply.status, reply.duration_s, None)


def _until(failed: Step, explanation: str, timing: Timing, url: str) -> list[Finding]:
    after = STEPS[STEPS.index(failed) + 1 :]
    return [
        *_before(failed, timing, url),
        Finding(failed, False, explanation),
        *(Finding(step, None, "not reached") for step in after),
    ]


def _before(step: Step, timing: Timing, url: str) -> list[Finding]:
    """What went well before a step was reached."""
    is_https = url.lower().startswith("https:")
    well = {
        "url": Finding("url", True, "the URL may be called"),
        "dns": Finding("dns", True, "the name leads to addresses that may be called", timing.dns_s),
        "connection": Finding("connection", True, "the server takes connections", timing.connect_s),
        "tls": Finding("tls", True, "the certificate is good")
        if is_https
        else Finding("tls", None, "there is no TLS: the URL is http"),
    }
    return [well[one] for one in STEPS[: STEPS.index(step)]]


def _certificate(error: DeliveryFailedError) -> str | None:
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        cause = cause.certificate_error
    return _CERTIFICATES.get(cause.verify_code) if isinstance(cause, ssl.SSLCertVerificationError) else None


def _status(status: int) -> tuple[bool, str]:
    """Whether the answer to HEAD is one of a receiver that will take a POST, as far as that can be told."""
    if known := _STATUSES.get(status):
        return known
    if 300 <= status < 400:
        return False, "it redirects, which webhooks do not follow: give the URL that it leads to"
    if status >= 500:
        return False, "it fails: look at its own log"
    return True, "it answers" if status < 300 else "it answers, though not to HEAD: try webhook-send-test"
