"""The errors of the domain, named once.

The API translates them into problem answers in `service/middleware.py`; the worker reads from the
type whether trying again can help.
"""

from typing import ClassVar


class AutosError(Exception):
    """Any error that Autos names itself."""


# What a caller can have done wrong ---------------------------------------------------------------


class InvalidProcessNumberError(AutosError):
    """The text is no CNJ process number; the message says why, in words fit for the caller."""


class DestinationRefusedError(AutosError):
    """A webhook URL that may not be called; the message names the rule, never an address found by DNS."""


class NotFoundError(AutosError):
    """What was asked for does not exist, or this client may not see it."""


class KeyRefusedError(AutosError):
    """An API key that cannot be stored for this client; the message says why."""


class KeyInUseError(AutosError):
    """Another request with the same idempotency key is under way."""


class KeyReusedError(AutosError):
    """An idempotency key that belongs to another request."""


class ErasedError(AutosError):
    """An idempotency key whose answer was about a process that was erased since."""


class JobFinalError(AutosError):
    """The job has ended already and cannot be cancelled."""


class JobSharedError(AutosError):
    """Another client waits for the job too, so this one may not cancel it."""


class TooManyActiveJobsError(AutosError):
    """The client has as many active jobs as it may have."""


class TooManyEndpointsError(AutosError):
    """The client has as many webhook endpoints as it may have."""


class UnknownEndpointError(AutosError):
    """A request names an endpoint that is none of the client's."""


class EndpointDisabledError(AutosError):
    """Nothing is sent to the endpoint before it is enabled again."""


class NothingToRetryError(AutosError):
    """The job has not ended, or it ended with every document; the message says which."""


# What a dependency can do to us -------------------------------------------------------------------


class LeaseLostError(AutosError):
    """The job is no longer this worker's: it was cancelled, or taken over after its lease ran out."""


class DatabaseUnavailableError(AutosError):
    """PostgreSQL does not answer, or cannot serve now; trying again can help."""


class DatabaseConflictError(DatabaseUnavailableError):
    """PostgreSQL undid the transaction in favour of another one; done again, it will hardly meet it again."""


class SchemaError(AutosError):
    """The database holds no schema, or one that this version does not know."""


class SecretUnreadableError(AutosError):
    """A secret at rest cannot be opened: its key is missing, or the row was tampered with."""


class EvictingRedisError(AutosError):
    """Redis is set to throw away keys when its memory is full."""


class SentryMissingError(AutosError):
    """Errors are to be sent to Sentry, and its package is not installed."""


class StorageUnavailableError(AutosError):
    """S3 did not take or give an object; trying again can help."""

    code: ClassVar[str] = "storage_unavailable"


class ObjectMissingError(StorageUnavailableError):
    """S3 answers, has our bucket, and does not have the object: trying again cannot help."""


class PortalError(AutosError):
    """The portal did not give what was asked. `code` is the reason callers see as `error_code`."""

    code: str = "portal_error"


class PortalUnavailableError(PortalError):
    """5xx, a time-out, a connection cut or a body cut short: trying again within seconds can help."""

    code = "portal_unavailable"


class PortalOverloadedError(PortalUnavailableError):
    """503: the portal has too much to do.

    Args:
        retry_after_s: seconds to wait as the portal asked, or None when it did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadContentError(PortalUnavailableError):
    """200 with something that is not the document: the portal's web page, an error envelope, a wrong size."""

    code = "bad_content"


class CodexFailureError(PortalError):
    """The court's document store failed behind the portal: few tries, spread over minutes."""

    code = "codex_error"


class LinkRefusedError(PortalUnavailableError):
    """A place that the portal led to did not let us in: its temporary link may have run out."""


class DocumentNotReadyError(PortalError):
    """202: the portal prepares the document; asking again later costs no attempt.

    Args:
        retry_after_s: seconds to wait as the portal asked, or None when it did not say.
    """

    code = "not_ready"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PortalPausedError(PortalError):
    """The portal refuses work for now, whoever asks; waiting costs the documents no attempt.

    Args:
        retry_after_s: seconds to wait as the portal asked, or None when it did not say.
    """

    code = "portal_paused"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PortalThrottledError(PortalPausedError):
    """429: too many requests."""

    code = "throttled"


class PortalUnauthorizedError(PortalPausedError):
    """401 with an empty body: our token is missing or has expired."""

    code = "upstream_auth"


class SignOnError(PortalUnauthorizedError):
    """The sign-on server gave no token this time; asking again later can help."""


class CredentialRefusedError(PortalUnauthorizedError):
    """The sign-on server refused the credential: only another setting can help.

    Args:
        reason: the `error` of RFC 6749 §5.2 that it answered with.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the sign-on server refused the credential ({reason}); it is not asked again until another "
            "one is configured"
        )
        self.reason = reason


class PortalBlockedError(PortalPausedError):
    """The gateway's firewall turned the request away."""

    code = "upstream_blocked"


class PortalBreakerOpenError(PortalPausedError):
    """The portal failed so often in a row that it is not asked at all for `retry_after_s`."""

    code = "portal_unavailable"


class RefusedError(PortalError):
    """Trying again cannot help."""

    code = "refused"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ProcessNotFoundError(RefusedError):
    """The portal knows no such process, or no such document."""

    code = "not_found"


class NoAccessError(RefusedError):
    """Our token is good but has no standing in this process."""

    code = "no_access"


class SecrecyError(RefusedError):
    """The process or document is more secret than `AUTOS_MAX_SECRECY` allows."""

    code = "secrecy_above_limit"
