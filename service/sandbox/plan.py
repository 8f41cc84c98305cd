"""What a run of the sandbox is to be: read once from the environment, with what API and worker get."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.core.key_ring import new_key
from service.core.signing import new_secret, parse_secret, show_secret
from service.sandbox.state import SandboxError, kept_secret

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "autos_sandbox_key"
DATA_LAKE_COURT = "4.04"
"""Whose processes come from the stand-in data lake: the TRF4."""

_DEFAULT_PORT = 8000
_LAST_PORT = 65_535

# Quicker than in production: a laptop's user waits for it, and kills the worker to see what happens.
_KNOBS: Mapping[str, str] = {
    "AUTOS_WEBHOOK_ALLOW_PRIVATE": "true",
    "AUTOS_PORTAL_CONCURRENCY": "48",
    "AUTOS_PORTAL_PAUSE_S": "1",
    "AUTOS_PORTAL_CONCURRENCY_START": "32",
    "AUTOS_DATA_LAKE_CONCURRENCY": "48",
    "AUTOS_DATA_LAKE_CONCURRENCY_START": "32",
    "AUTOS_DOWNLOADS_PER_JOB": "16",
    "AUTOS_JOB_RETRY_DELAYS_S": "1,2",
    "AUTOS_LEASE_S": "6",
    "AUTOS_DRAIN_S": "5",
}


@dataclass(frozen=True)
class Plan:
    """One run of the sandbox.

    Attributes:
        caller: the environment we were started with; what it sets wins over the sandbox's knobs.
        host, port: where the API listens.
        state_dir: what is kept until the next run on the same port.
        latency_s: the median wait of the stand-in portal before each answer.
    """

    caller: Mapping[str, str]
    host: str
    port: int
    state_dir: Path
    latency_s: float

    @property
    def url(self) -> str:
        """The API as this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"

    @property
    def portal_token(self) -> str:
        """What the stand-in portal asks for."""
        return self.caller.get("AUTOS_PORTAL_TOKEN") or "sandbox-portal-token"

    @property
    def data_lake_token(self) -> str:
        """What the stand-in data lake asks for."""
        return self.caller.get("AUTOS_DATA_LAKE_TOKEN") or "sandbox-data-lake-token"

    def webhook_secret(self) -> str:
        """Return the signing secret: AUTOS_SANDBOX_WEBHOOK_SECRET, else one made once and kept.

        Raises:
            SandboxError: the given one is no signing secret.
        """
        given = self.caller.get("AUTOS_SANDBOX_WEBHOOK_SECRET")
        secret = given or kept_secret(self.state_dir / "webhook.secret", lambda: show_secret(new_secret()))
        try:
            parse_secret(secret)
        except ValueError as error:
            raise SandboxError(f"AUTOS_SANDBOX_WEBHOOK_SECRET: {error}") from None
        return secret

    def secret_keys(self) -> str:
        """Return the key that seals secrets: AUTOS_SECRET_KEYS, else one made once and kept."""
        return self.caller.get("AUTOS_SECRET_KEYS") or kept_secret(self.state_dir / "secret.keys", new_key)

    def environ(self, backends: Mapping[str, str], portal_url: str, data_lake_url: str) -> dict[str, str]:
        """Return the environment of API and worker.

        Args:
            backends: the variables that lead to the servers.
            portal_url: the stand-in's; a portal of the caller's own keeps its address and its token.
            data_lake_url: the stand-in's, likewise; not used beside a portal of the caller's own.
        """
        portal, data_lake = dict[str, str](), dict[str, str]()
        if not self.caller.get("AUTOS_PORTAL_URL"):
            portal = {"AUTOS_PORTAL_URL": portal_url, "AUTOS_PORTAL_TOKEN": self.portal_token}
            data_lake["AUTOS_SOURCE_BY_COURT"] = f"{DATA_LAKE_COURT}=data_lake"
        if not self.caller.get("AUTOS_DATA_LAKE_URL"):
            data_lake["AUTOS_DATA_LAKE_URL"] = data_lake_url
            data_lake["AUTOS_DATA_LAKE_TOKEN"] = self.data_lake_token
            data_lake["AUTOS_DATA_LAKE_REDIRECT_HOSTS"] = "127.0.0.1"
        place = {"AUTOS_HOST": self.host, "AUTOS_PORT": str(self.port), "AUTOS_PUBLIC_URL": self.url}
        # Beside the API and the receiver, so that each sandbox of a machine has its own.
        place["AUTOS_WORKER_PORT"] = str(self.port + 2 if self.port + 2 <= _LAST_PORT else 0)
        return {**_KNOBS, **place, **portal, **data_lake, **self.caller, **backends}


def read_plan(environ: Mapping[str, str]) -> Plan:
    """Read what kind of run the environment asks for.

    Raises:
        SandboxError: a number is none, or out of range.
    """
    port = int(_number(environ, "AUTOS_PORT", _DEFAULT_PORT, most=_LAST_PORT))
    folder = Path(environ.get("AUTOS_SANDBOX_DIR") or ROOT / ".sandbox").absolute()
    return Plan(
        caller=environ,
        host=environ.get("AUTOS_HOST") or "127.0.0.1",
        port=port,
        state_dir=folder / str(port),
        latency_s=_number(environ, "AUTOS_SANDBOX_LATENCY_S", 0.15, most=60),
    )


def _number(environ: Mapping[str, str], name: str, default: float, *, most: float) -> float:
    text = environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise SandboxError(f"{name} is {text!r}, and has to be a number from 0 to {most:g}")
    return value
