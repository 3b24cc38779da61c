# `make` lists the targets. Each does all its own set-up, in .venv, from Python 3.11+, pip and make alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# No telemetry from what runs here.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DBT_SEND_ANONYMOUS_USAGE_STATS := false
# What runs here starts many processes: each would compile the library anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo demo-server test lint format bench docs clean

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.example  ## Load three sources and watch exactly their models being built (no server to set up).
	@$(BIN)/python -m example_project.demo

demo-server: $(VENV)/.example  ## The same on a real Prefect server, with schedules and one dbt deployment.
	@$(BIN)/python -m example_project.demo_server

test: $(VENV)/.dev  ## Run all tests.
	@# In two runs, as in two projects: a fixture of a session has one dbt project. In a fixed order, so that a
	@# failure is seen again; `pytest` alone shuffles. Two processes, each with whole files: real servers and dbt
	@# take the time.
	@$(BIN)/python -m pytest -p no:randomly example_project/tests
	@$(BIN)/python -m pytest -p no:randomly -n 2 --dist loadfile

lint: $(VENV)/.dev  ## Check style and types.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.dev  ## Mend style.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev  ## Measure speed and memory beside the alternatives (20 minutes, 2 GB of disk).
	-@$(BIN)/python -m benchmarks --write benchmarks/results.md

docs: $(VENV)/.dev  ## Write docs/cli.md and docs/settings.md from the code.
	@$(BIN)/python docs/generate.py

clean:  ## Remove the virtual environment and all that was built.
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf example_project/data example_project/ints/dbt/flows/target example_project/ints/dbt/flows/logs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is not; run make PYTHON=python3.11"; exit 1; }
	@echo "Making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.example: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing the library and what its example needs (about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[example]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing the library and what its tests need (about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
