"""Whether the API or the worker of this container lives: the status of Docker's HEALTHCHECK."""

import os
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

for name, default in (("AUTOS_PORT", "8000"), ("AUTOS_WORKER_PORT", "9101")):
    try:
        urlopen(f"http://127.0.0.1:{os.environ.get(name) or default}/healthz", timeout=4).close()
    except HTTPError as error:
        sys.exit(f"/healthz answers {error.code}")
    except OSError:
        continue  # nobody listens: the container is of the other kind
    sys.exit(0)
sys.exit("nothing answers")
