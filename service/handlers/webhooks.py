"""The four tools for those who build a receiver. They call out under the same guard as deliveries."""

from datetime import UTC, datetime
from uuid import uuid4

import orjson
from aiohttp import web
from pydantic import ValidationError

from service import answers, problems
from service.contract import OBJECT, Operation
from service.core import signing
from service.core.errors import DestinationRefusedError
from service.core.outbound import DeliveryFailedError, OutboundPolicy, parse_destination
from service.core.sending import send
from service.handlers.submissions import checked_webhook_url
from service.keys import CLIENT, OUTBOUND, SETTINGS
from service.request_schemas import NoQuery, WebhookQuery, WebhookRequest
from service.requests import read_json, read_object, read_query
from service.schemas import ConnectivityAnswer, EchoAnswer, SendTestAnswer, ValidateAnswer

_TEST_TIMEOUT_S = 15.0


@Operation("webhooks", {200: ValidateAnswer}, query=WebhookQuery, body=WebhookRequest, is_body_needed=False)
async def validate_webhook(request: web.Request) -> web.Response:
    """Say whether a URL would be accepted; 200 for good and bad ones alike, and nothing is called."""
    asked = await _read(request)
    try:
        destination = parse_destination(
            asked.webhook_url, OutboundPolicy.from_settings(request.app[SETTINGS])
        )
    except DestinationRefusedError as error:
        answer = ValidateAnswer(
            valid=False, url=asked.webhook_url, message="the URL would be refused", error=str(error)
        )
    else:
        answer = ValidateAnswer(
            valid=True, url=str(destination.url), message="the URL would be accepted", error=None
        )
    return answers.json_response(answer)


@Operation(
    "webhooks", {200: ConnectivityAnswer}, body=WebhookRequest, is_body_needed=False, query=WebhookQuery
)
async def test_connectivity(request: web.Request) -> web.Response:
    """Ask the receiver for a sign of life: any HTTP answer counts."""
    asked = await _read(request)
    url = checked_webhook_url(request, asked.webhook_url) or ""
    app = request.app
    try:
        async with app[OUTBOUND].turn(url):
            reply = await app[OUTBOUND].probe(url, timeout_s=app[SETTINGS].webhook_timeout_s)
    except (DeliveryFailedError, DestinationRefusedError) as error:
        answer = ConnectivityAnswer(success=False, status_code=None, response_time_ms=None, error=str(error))
    else:
        elapsed_ms = round(reply.duration_s * 1000, 1)
        answer = ConnectivityAnswer(
            success=True, status_code=reply.status, response_time_ms=elapsed_ms, error=None
        )
    return answers.json_response(answer)


@Operation("webhooks", {200: SendTestAnswer}, query=WebhookQuery, body=WebhookRequest, is_body_needed=False)
async def send_test(request: web.Request) -> web.Response:
    """Send a signed `webhook.test` event, with the quick tries of a real delivery."""
    asked = await _read(request)
    url = checked_webhook_url(request, asked.webhook_url) or ""
    message_id = f"msg_{uuid4().hex}"
    last, requests = await send(
        request.app[OUTBOUND],
        url,
        secret=request[CLIENT].webhook_secret,
        message_id=message_id,
        body=_test_event(),
        # All tries together stay below the minute after which a proxy gives a caller up.
        timeout_s=min(request.app[SETTINGS].webhook_timeout_s, _TEST_TIMEOUT_S),
    )
    status_code = last.reply.status if last.reply else None
    error = None if last.is_accepted else str(last.error or f"the receiver answered {status_code}")
    answer = SendTestAnswer(
        success=last.is_accepted,
        status_code=status_code,
        attempts=requests,
        message_id=message_id,
        error=error,
    )
    return answers.json_response(answer)


@Operation("webhooks", {200: EchoAnswer}, body=OBJECT)
async def test_receiver(request: web.Request) -> web.Response:
    """Echo the keys of what was sent, and say whether it was signed with the client's own secret."""
    read_query(request, NoQuery)
    body, payload = await read_object(request)
    signed = "webhook-signature" in request.headers
    is_valid = signing.verify(request[CLIENT].webhook_secret, request.headers, body) if signed else None
    answer = EchoAnswer(received=True, payload_keys=list(payload), payload=payload, signature_valid=is_valid)
    try:
        return answers.json_response(answer)
    except (orjson.JSONEncodeError, ValidationError, RecursionError) as error:
        # What can be read can still be nested too deeply to be written.
        raise problems.invalid("#", "is nested too deeply to be echoed") from error


async def _read(request: web.Request) -> WebhookRequest:
    """Return the URL, given in a JSON body or, without a body, in the query."""
    if request.can_read_body:
        read_query(request, NoQuery)
        return await read_json(request, WebhookRequest)
    return read_query(request, WebhookRequest)


def _test_event() -> bytes:
    event = {
        "type": "webhook.test",
        "timestamp": datetime.now(UTC),
        "message": "a test of Autos: nothing happened",
    }
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)
