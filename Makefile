# Everything a newcomer needs; each target makes what it needs itself. PYTHON: 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test lint docs bench claims fuzz pythons clean

run: $(VENV)/.base            ## start a real village on loopback and watch it heal
	$(BIN)/grove demo

test: lint                    ## everything that must hold
	$(BIN)/python -m pytest

lint: $(VENV)/.dev            ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev            ## write again what is generated: configuration, hooks, interop
	$(BIN)/python -m grove_core.cli.reference
	$(BIN)/python -m tests.interop.table

bench: $(VENV)/.dev           ## ours beside the rivals, in one interleaved run
	$(BIN)/python -m benchmarks

claims: $(VENV)/.dev          ## the long experiments, and docs/claims.md
	$(BIN)/python -m tests.claims

fuzz: $(VENV)/.dev            ## 100,000 mutated inputs per decoder, 200 kills, hostile peers; docs/hardening.md
	$(BIN)/python -m tests.hardening

pythons: $(VENV)/bin/python    ## Grove on each CPython that is here, to compare histories
	@for version in 3.11 3.12 3.13; do \
		for python in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python; do \
			if "$$python" -c "" 2>/dev/null; then \
				"$$python" -m venv $(VENV)/pythons/$$version && $(VENV)/pythons/$$version/bin/python \
					-m pip install --quiet --disable-pip-version-check -e . && break; \
			fi; \
		done; \
	done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Grove needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml $(wildcard contrib/*/pyproject.toml)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' $(addprefix -e ,$(wildcard contrib/*/))
	@touch $@ $(VENV)/.base
