# `make help` lists the targets. A fresh machine needs Python >= 3.11 and make, nothing else.
#   ARGS=...        passed on: make demo ARGS=--json, make test ARGS="-k submit"
#   PYTHON=...      the interpreter of a new .venv
#   TEST_JOBS=...   test processes (default 3: they mostly wait)

VENV := .venv
BIN := $(VENV)/bin
TEST_JOBS ?= 3
ARGS ?=
# Commands that tests run, and the Debian packages that bring them.
TEST_PACKAGES := redis-server=redis-server node=nodejs openssl=openssl curl=curl chromium=chromium \
	chromedriver=chromium-driver promtool=prometheus

RUN_STAMP := $(VENV)/.stamp
DEV_STAMP := $(VENV)/.stamp-dev
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test faults soak check format lint types imports lua compose compose-test fmt docs lock clean venv

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(RUN_STAMP) ## the whole system on example jobs; ARGS=--json for figures
	@$(BIN)/darkroom demo $(ARGS)

test: $(DEV_STAMP) ## every test against real servers, nothing skipped
	@tools/debian-packages $(TEST_PACKAGES)
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadgroup $(ARGS)

faults: $(DEV_STAMP) ## every staged fault, judged by the provider's ledger: minutes; ARGS=--json for the table
	@tools/debian-packages redis-server=redis-server faketime=faketime
	@$(BIN)/python -m tests.faults $(ARGS)

soak: $(DEV_STAMP) ## random faults under load, a minute for each of SEEDS (1); SEED=N replays one
	@$(BIN)/python -m tests.faults.soak --seeds $(or $(SEEDS),1) $(if $(SEED),--seed $(SEED)) $(ARGS)

check: prerequisites format lint types imports lua compose test ## format, lint, types, imports, Lua lint, compose file, tests

.PHONY: prerequisites
prerequisites:
	@tools/debian-packages luacheck=lua-check $(TEST_PACKAGES)

format: $(DEV_STAMP)
	$(BIN)/ruff format --check .

lint: $(DEV_STAMP)
	$(BIN)/ruff check .

types: $(DEV_STAMP)
	$(BIN)/mypy

imports: $(DEV_STAMP)
	$(BIN)/lint-imports

lua: $(DEV_STAMP)
	@tools/debian-packages luacheck=lua-check
	$(BIN)/python -m tools.lint_lua

compose: $(DEV_STAMP) ## docker-compose.yml as Compose reads it, and the Dockerfile; needs no Docker
	$(BIN)/python -m tools.compose_check

compose-test: $(DEV_STAMP) ## the compose file for real, with a Docker daemon of its own if there is none (root)
	@tools/debian-packages dockerd=docker.io debootstrap=debootstrap iptables=iptables
	$(BIN)/python -m tools.compose_test $(ARGS)

fmt: $(DEV_STAMP) ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DEV_STAMP) ## write the generated pages again
	$(BIN)/python -m tools.settings_reference
	$(BIN)/python -m tools.lifecycle_doc > docs/lifecycle.md
	$(BIN)/python -m tools.event_schemas
	$(BIN)/python -m tools.metrics_doc > docs/metrics.md
	$(BIN)/python -m tools.included_files

lock: ## resolve all dependencies anew into constraints.txt
	@tools/lock

venv: $(DEV_STAMP) ## only make .venv

clean: ## remove .venv and everything made by tools
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run instant. The demo needs no test tools and does not wait for them.
$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV)" >&2
	@$(INSTALL) '.[flower,local,sandbox]'
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing with test tools into $(VENV)" >&2
	@$(INSTALL) '.[dev]'
	@touch $(RUN_STAMP) $@

$(BIN)/python:
	@python=$$(tools/find-python) && "$$python" -m venv $(VENV)
