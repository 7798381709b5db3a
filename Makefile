# Everything lives in .venv; nothing outside the checkout is touched but the cache (COATTEST_CACHE, ~/.cache/coattest).
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?=
# Two workers more than processors: tests wait for processes and sockets about half of their time.
WORKERS ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 1) + 2 )))
CEREMONY_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench attestations man clean

help: ## Show what there is to run
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.ready-local ## Run the whole chain here: rebuild, sign, decide, deploy, auction, refusals
	$(BIN)/nitro-local demo --this-checkout-is-mine

test: .venv/.ready-test ## Set up and run the tests (minutes; what takes long is in test-all)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-all: test .venv/.ready-dev ## All tests: also deployment, guides, faults, images, QEMU, containers (an hour)
	$(BIN)/tox run -m long

lint: .venv/.ready-dev ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/.ready-test ## Measure, as ratios against a reference in the same run
	@for script in bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit; done

attestations: .venv/.ready-test ## Rebuild by two routes, sign, and replace the project's own attestations
	.ci/ceremony $(CEREMONY_ARGS)

man: .venv/.ready-test ## Write the man pages into out/man
	$(BIN)/python docs/man.py out/man

clean: ## Remove the environment and build output (not the cache)
	rm -rf .venv .tox out dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: Python 3.10 or newer is needed; set PYTHON=" >&2; exit 3; }
	$(PYTHON) -m venv .venv

.venv/.ready-%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[$*]'
	@touch $@
