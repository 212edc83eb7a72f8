# make run     adapt a re-ranker to the sample corpus (first time: sets up, minutes and 4 GB of disk); ARGS="--corpus X --out Y"
# make test    the default tests; ARGS="-m real" and the like for others
# make setup   what both need: .venv, pinned packages, the sample's weights
# make lint    style and types
# make lock    resolve the dependencies anew; ARGS="torch==2.13.0" for constraints
# All need Python >= 3.11 and nothing else; PYTHON=... and VENV=... choose another than the first found and .venv.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
ARGS ?=
NEEDS := Makefile tools/setup.sh pyproject.toml requirements.lock

.PHONY: run test setup lint lock
run: $(VENV)/.ready
	$(VENV)/bin/readqg run $(ARGS)

test: $(VENV)/.ready-dev
	$(VENV)/bin/python -m pytest $(ARGS)

setup: $(VENV)/.ready-dev

lint: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

lock:
	tools/lock.sh $(PYTHON) $(ARGS)

$(VENV)/.ready: $(NEEDS)
	@$(if $(PYTHON),,echo "No Python >= 3.11 found: install one, or give PYTHON=/path/to/python" >&2; exit 1)
	@tools/setup.sh $(PYTHON) $(VENV) requirements.lock
	@touch $@

$(VENV)/.ready-dev: $(NEEDS) requirements-dev.lock
	@$(if $(PYTHON),,echo "No Python >= 3.11 found: install one, or give PYTHON=/path/to/python" >&2; exit 1)
	@tools/setup.sh $(PYTHON) $(VENV) requirements.lock requirements-dev.lock
	@touch $(VENV)/.ready $@
