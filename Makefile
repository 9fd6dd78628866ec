# Needs Python 3.11 to 3.13 with venv, and nothing else. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo serve test lint format bench evaluate fuzz campaign ticks drill docs peers lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

setup: .venv/.ready ## make .venv with every dependency at its locked version

demo: .venv/.ready ## a server, an endpoint, real requests: watch them routed, signed, served, autoscaled
	$(BIN)/posthouse demo

serve: .venv/.ready ## run the server on 127.0.0.1:8080
	$(BIN)/posthouse serve

test: .venv/.ready ## run every test, four files at a time: most of them wait for something
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

lint: .venv/.ready ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.ready ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.ready ## measure the hot path; results go to benchmarks/results
	$(BIN)/python -m benchmarks.route

evaluate: .venv/.ready ## our scaling against every rival and against the bounds; TRACES="FILE FOLDER ..."
	$(BIN)/python -m benchmarks.evaluate $(if $(TRACES),--traces $(TRACES)) $(ARGS)

drill: .venv/.ready ## list the drills; make drill NAME=crash runs one, results go to drills/results
	$(BIN)/python -m drills$(if $(NAME),.$(NAME)) $(ARGS)

fuzz: .venv/.ready ## make over 100,000 calls that nobody foresaw; ends with 1 and the case where one breaks the server
	$(BIN)/python -m tests.fuzz

campaign: .venv/.ready ## live through 2,000 virtual days of faults; the record goes to tests/campaign
	$(BIN)/python -m tests.campaign --record tests/campaign/record.json

ticks: .venv/.ready ## live through a million random ticks, with random edits; the record goes to tests/sim
	$(BIN)/python -m tests.sim.ticks --record tests/sim/ticks.json

docs: .venv/.ready ## write the generated parts of the documentation anew
	$(BIN)/python docs/generate.py

peers: .venv/.ready ## run what shows how unmodified peers do here, and record it in docs/reference
	$(BIN)/python -m pytest -m peer --peers=docs/reference/peers.json tests
	$(BIN)/python docs/generate.py

lock: ## resolve the dependencies anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra server --group dev \
		--no-header --output-file requirements.lock pyproject.toml

clean: ## remove what the targets made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
