"""`python -m worker`: one worker process."""

import sys

import uvloop
from pydantic import ValidationError

from service.core.errors import AutosError
from service.core.log import configure_logging
from service.core.sentry import open_sentry
from service.core.settings import Settings, refusals
from service.core.tracing import open_tracing
from worker.main import run_worker


def main() -> int:
    """Run until SIGTERM; return the process's exit status."""
    try:
        settings = Settings()
        configure_logging(settings)
        with open_sentry(settings), open_tracing(settings, service="autos-worker"):
            uvloop.run(run_worker(settings))
    except ValidationError as error:
        sys.stderr.writelines(f"autos worker: {line}\n" for line in refusals(error))
        return 1
    except (AutosError, OSError, ValueError) as error:
        sys.stderr.write(f"autos worker: {error}\n")
        return 1
    return 0


sys.exit(main())
