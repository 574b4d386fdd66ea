# make run and make test work on a fresh clone with Python 3.11 or newer; everything goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help run test check slow bench ui format clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

run: $(STAMP) ## the default experiment: breast cancer, an MLP, gates, a local MLflow store
	@$(BIN)/mlops-hydra
	@printf '\nNext:\n  source .venv/bin/activate && mlops-hydra model=linear\n'

test: $(STAMP) ## all tests but the slow ones
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not slow"

check: $(STAMP) ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

slow: $(STAMP) ## the tests that take long, Ray among them
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,serve,ray]'
	$(BIN)/python -m pytest -m slow -p no:randomly --durations=10

bench: $(STAMP) ## training, start-up, recording, sweeps, gates, routing, drift and serving (needs wrk) against the peers, or against nothing, interleaved
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/recording.py
	$(BIN)/python benchmarks/sweeps.py
	$(BIN)/python benchmarks/gates.py
	$(BIN)/python benchmarks/routing.py
	$(BIN)/python benchmarks/drift.py
	$(BIN)/python benchmarks/serving.py

ui: $(STAMP) ## MLflow's pages on the local store, http://127.0.0.1:5000
	MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db --host 127.0.0.1

format: $(STAMP) ## rewrite files in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and caches; outputs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV) (once, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,serve]'
	@touch $@
