# Everything runs from here with `python -m`; the project itself is not installed.

# The first Python that is new enough; PYTHON=… names another one.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$python" && break; \
	done)
PY := .venv/bin/python
STAMP := .venv/installed
ARGS ?=
# Tests at the same time, each on servers of its own.
JOBS ?= 3
# With LONG=1 also the cases that take long and show the same as others at one more step.
LONG ?=
# Of the benchmark: which workloads (all when empty), each how often.
WORKLOADS ?=
ROUNDS ?= 3

# How the lock files are made: `make lock` writes them, `make check` compares. Extras stay in them: pip before
# 23.3 takes the newest release for a name with an extra, whatever the pin of the bare name says.
COMPILE := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	--generate-hashes --no-header --no-strip-extras
LOCK_DEV := $(COMPILE) --extra dev --extra sandbox --extra sentry --extra bench pyproject.toml
LOCK_RUN := $(COMPILE) -c requirements-dev.lock pyproject.toml
# For an image with traces and Sentry.
LOCK_EXTRAS := $(LOCK_RUN) --extra otel --extra sentry

.DEFAULT_GOAL := help
.PHONY: help run test coverage bench chaos cluster collection check check-lock lock clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1|/p' Makefile | while IFS='|' read -r name text; do \
		printf '  %-12s %s\n' "$$name" "$$text"; done

run: $(STAMP) ## Start the sandbox in the foreground: servers, stand-in portal, API, worker (AUTOS_PORT=8000)
	@$(PY) -m service.sandbox

test: $(STAMP) ## Run the tests (JOBS=3 at once; LONG=1: every case of them; ARGS="-k name" goes to pytest)
	$(PY) -m pytest --numprocesses $(JOBS) --dist worksteal $(if $(LONG),,-m "not long") $(ARGS)

coverage: $(STAMP) ## Run the tests and show which lines none of them reached
	$(PY) -m pytest --cov $(ARGS)

bench: $(STAMP) ## Measure side by side and print ratios (WORKLOADS="A E", ROUNDS=3)
	@$(PY) -m tests.bench $(WORKLOADS) --rounds $(ROUNDS)

chaos: $(STAMP) ## Load and one random fault at a time, then the invariants (CHAOS_MINUTES=3, CHAOS_SEED)
	@$(PY) -m tests.faults.chaos

cluster: $(STAMP) ## Six hosts of one machine: throughput by hosts, one cut off and back (Linux, as root, iproute2)
	@$(PY) -m tests.cluster

collection: $(STAMP) ## Write the collection of requests for Postman anew, from the description of the API
	@$(PY) -m tests.postman

check: $(STAMP) check-lock ## Check style, types, imports and lock files
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

# A copy seeded with the lock keeps its pins: only what pyproject.toml no longer allows would change.
check-lock: $(STAMP)
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && cp requirements-dev.lock requirements.lock \
		requirements-extras.lock "$$new" \
	&& $(LOCK_DEV) -o "$$new/requirements-dev.lock" && $(LOCK_RUN) -o "$$new/requirements.lock" \
	&& $(LOCK_EXTRAS) -o "$$new/requirements-extras.lock" \
	&& diff -q requirements-dev.lock "$$new/requirements-dev.lock" \
	&& diff -q requirements.lock "$$new/requirements.lock" \
	&& diff -q requirements-extras.lock "$$new/requirements-extras.lock" \
	|| { echo "The lock files do not match pyproject.toml, or could not be made: run make lock" >&2; exit 1; }

lock: $(STAMP) ## Bring the lock files up to date with pyproject.toml
	$(LOCK_DEV) -o requirements-dev.lock
	$(LOCK_RUN) -o requirements.lock
	$(LOCK_EXTRAS) -o requirements-extras.lock

clean: ## Remove the environment, caches and the state of every sandbox
	rm -rf .venv .sandbox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf .coverage .coverage.* htmlcov

$(STAMP): requirements-dev.lock
	@test -n "$(PYTHON)" || { echo "Autos needs Python 3.11 or later: install it, or name it with PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Autos needs Python 3.11 or later, and $(PYTHON) is none" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
