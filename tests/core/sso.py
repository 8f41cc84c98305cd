"""A sign-on server for tests: gives tokens as Keycloak does, and fails as it is told to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from service.core.settings import Settings
from tests.conftest import MakeSettings
from tests.core.s3_servers import Fault

CLIENT_SECRET = "client.hush"
FIRST_REFRESH_TOKEN = "refresh.0.hush"
HUSH = "hush"
"""A part of every secret here: where it is found, one was told."""


@dataclass
class Sso:
    """What was asked, and what is valid now.

    Attributes:
        lifetime_s: of the access tokens to come.
        access_token: the newest that was given; the others are worthless.
        refresh_token: the only valid one.
        rotates: whether each refresh token is good for one use.
        forms: every form that came.
        fault: what happens to a request before it is looked at; None lets it go on.
        afterwards: what happens when the tokens are made and not yet sent.
    """

    url: str = ""
    lifetime_s: float = 28_800
    access_token: str = ""
    refresh_token: str = FIRST_REFRESH_TOKEN
    rotates: bool = True
    forms: list[dict[str, Any]] = field(default_factory=list)
    fault: Fault | None = None
    afterwards: Fault | None = None
    _given: int = 0

    def service(self, make_settings: MakeSettings, **changes: Any) -> Settings:
        """Settings for `client_credentials`."""
        return self._settings(make_settings, portal_client_secret=CLIENT_SECRET, **changes)

    def session(self, make_settings: MakeSettings, **changes: Any) -> Settings:
        """Settings for `refresh_token`."""
        return self._settings(make_settings, **{"portal_refresh_token": FIRST_REFRESH_TOKEN, **changes})

    def _settings(self, make_settings: MakeSettings, **changes: Any) -> Settings:
        return make_settings(
            portal_token=None, portal_token_url=self.url, portal_client_id="autos", **changes
        )

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request for a token."""
        form = dict(await request.post())
        self.forms.append(form)
        if self.fault and (response := await self.fault(request)):
            return response
        if refusal := self._refusal(form):
            return refusal
        self._give(form["grant_type"] == "refresh_token")
        if self.afterwards and (response := await self.afterwards(request)):
            return response
        answer = {"access_token": self.access_token, "expires_in": self.lifetime_s, "token_type": "Bearer"}
        if form["grant_type"] == "refresh_token":
            answer["refresh_token"] = self.refresh_token
        return web.json_response(answer)

    def _refusal(self, form: dict[str, Any]) -> web.Response | None:
        if form["grant_type"] == "client_credentials":
            return None if form.get("client_secret") == CLIENT_SECRET else error(401, "invalid_client")
        return None if form.get("refresh_token") == self.refresh_token else error(400, "invalid_grant")

    def _give(self, is_session: bool) -> None:
        self._given += 1
        self.access_token = f"access.{self._given}.{HUSH}"
        if is_session and self.rotates:
            self.refresh_token = f"refresh.{self._given}.{HUSH}"


def error(status: int, code: str) -> web.Response:
    """Answer as RFC 6749 §5.2 has it; the description repeats a secret, as careless servers do."""
    return web.json_response({"error": code, "error_description": f"no {CLIENT_SECRET}"}, status=status)


@asynccontextmanager
async def open_sso() -> AsyncIterator[Sso]:
    """Serve on loopback."""
    sso = Sso()
    app = web.Application()
    app.router.add_post("/token", sso.answer)
    server = TestServer(app)
    # Requests that hang end with their connection: a test server cancels its handlers.
    await server.start_server(shutdown_timeout=0.1)
    sso.url = str(server.make_url("/token"))
    try:
        yield sso
    finally:
        await server.close()
