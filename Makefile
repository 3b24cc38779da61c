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

# Of the fast tests, in per cent of lines: a change that nothing tests is seen.
COVERAGE_FLOOR := 88
FAST := -m 'not integration and not drill'
PYTEST := $(BIN)/python -m pytest -p no:randomly
# What runs over each dbt; the names of the tests end with it: dbt1-process, another-dbt1, dbt2, dbt-cloud.
ENGINES := -m 'not drill' tests/engines tests/integration/test_truth.py tests/integration/test_demo.py tests/integration/test_by_hand.py

# What a release of Prefect, dbt or SQLAlchemy can break.
CORE := $(addprefix tests/,builds check cli dbt deployed ledger lineage loads plan reports testing triggers \
  test_orchestrator.py test_producers.py test_settings.py)

.DEFAULT_GOAL := help
.PHONY: help demo demo-server check test test-engines test-dbt2 test-dbt112 test-lowest drill soak lint format coverage generate docs dist bench bench-peers clean

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.example  ## Load three sources and watch exactly their models being built (no server to set up).
	@$(BIN)/python -m example_project.demo

demo-server: $(VENV)/.example  ## The same on a real Prefect server, with schedules and one dbt deployment.
	@$(BIN)/python -m example_project.demo_server

check: lint  ## What to run before each commit: lint and the quick tests (under a minute).
	@$(PYTEST) -q -n 2 -m quick

test: $(VENV)/.dev  ## Run all tests but the drills and some of the slower engines (8 minutes on two cores).
	@# In a fixed order, so that a failure is seen again; `pytest` alone shuffles. Three processes, each with whole files:
	@# real servers and dbt take the time, and those that wait most begin first (see tests/conftest.py, which xdist
	@# would sort again by number). Coverage is that of the fast tests, with a floor.
	@$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report= --cov-fail-under=$(COVERAGE_FLOOR)

test-engines: $(VENV)/.dev  ## Run all tests of the engines: dbt 1 in process and as a process, and dbt Cloud's stand-in.
	@$(PYTEST) -n 2 $(ENGINES)

test-dbt2: $(VENV)/.dev  ## Run the tests of the engines and the demo over dbt 2, which it sets up in .dbt2 (Linux, npm).
	@# Where it cannot be had, this says so and fails: a run without dbt 2 must not look like one with it.
	@dbt=$$($(BIN)/python .ci/get_dbt2.py .dbt2) && LINEAGE_ORCH_TEST_DBT2=$$dbt $(PYTEST) $(ENGINES) -k dbt2

test-dbt112: $(VENV)/.dev  ## Run them over dbt-core 1.12, which it sets up in .dbt112.
	@dbt=$$($(BIN)/python .ci/get_dbt112.py .dbt112) && \
	  LINEAGE_ORCH_TEST_DBT1=$$dbt $(PYTEST) $(ENGINES) -k another-dbt1

test-lowest: $(VENV)/.dev  ## Run the core of the fast tests over the lowest versions that pyproject.toml declares, set up in .lowest.
	@# Their own warnings are no failures. Left out: the words in which SQLAlchemy writes the same tables.
	@python=$$($(BIN)/python .ci/get_lowest.py .lowest) && $$python -m pytest -p no:randomly -q --no-cov -W default \
	  $(FAST) $(CORE) --deselect tests/ledger/test_migration.py::test_tables_of_version_2_are_what_was_released

drill: $(VENV)/.dev  ## Run the drills: they wait for minutes until Prefect gets over something.
	@$(PYTEST) -m drill

soak: $(VENV)/.dev  ## Let everything fail at random, 10,000 times in a model, 300 times with real processes, then for SOAK_MINUTES (3).
	@FAULT_SCHEDULES=$${FAULT_SCHEDULES:-10000} $(PYTEST) -s tests/faults/test_schedules.py
	@LINEAGE_ORCH_TEST_DBT2=$$($(BIN)/python .ci/get_dbt2.py .dbt2) $(PYTEST) -m soak -s tests/faults tests/integration

lint: $(VENV)/.dev  ## Check style, types and spelling.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@git ls-files -z | grep -zv '^constraints.txt$$' | xargs -0 $(BIN)/codespell

format: $(VENV)/.dev  ## Correct style.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

coverage: $(VENV)/.dev  ## Show which lines the fast tests miss.
	@$(PYTEST) -q -n 2 $(FAST) --cov --cov-report=term-missing --cov-fail-under=$(COVERAGE_FLOOR)

generate: $(VENV)/.dev  ## Write docs/cli.md, docs/settings.md and docs/lineage.svg from the code.
	@$(BIN)/python docs/generate.py

docs: $(VENV)/.docs  ## Build the documentation as a site, in site/; a warning is an error.
	@$(BIN)/python -m sphinx -b html -c docs -W --keep-going -q . site
	@echo "The site is in site/index.html"

dist: $(VENV)/.dev  ## Build wheel and sdist into dist/, install the wheel in a new environment, and try it.
	@rm -rf dist build
	@$(BIN)/python -m build --outdir dist .
	@$(BIN)/python .ci/try_wheel.py dist/*.whl

bench: $(VENV)/.dev  ## Measure speed and memory beside the alternatives (20 minutes, 2 GB of disk).
	-@$(BIN)/python -m benchmarks --write benchmarks/results.md

bench-peers: $(VENV)/.dev  ## Give the same loads to a hand-written trigger, and to Dagster (half an hour; from the internet).
	@$(BIN)/python -m benchmarks.peers --write benchmarks/peers/results.md

clean:  ## Remove the virtual environment and all that was built.
	rm -rf $(VENV) .dbt2 .dbt112 .lowest build dist site *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
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

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing the library and what its documentation needs (about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
