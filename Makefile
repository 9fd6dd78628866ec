# Needs Python 3.11 to 3.13 with venv, and nothing else. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup demo serve market test coverage lint format bench evaluate fuzz campaign ticks drill docs site peers clients console pictures \
	wheel image lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

# What a user needs: demo and serve.
.venv/.server: requirements.lock pyproject.toml
	@echo "posthouse: making .venv with $$($(PYTHON) --version), then installing $$(grep -c == requirements.lock) packages"
	$(PYTHON) -m venv .venv
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

# What a contributor needs on top: tests, linters, the documentation's site.
.venv/.dev: requirements-dev.lock .venv/.server
	@echo "posthouse: installing the tools for tests, lint and documentation, $$(grep -c == requirements-dev.lock) packages in all"
	$(PIP) install --no-compile --require-hashes -r requirements-dev.lock
	@touch $@

setup: .venv/.dev ## make .venv with everything a contributor needs, at its locked version

# PROVIDER=docker runs its workers in containers, of the engine ENGINE and the image IMAGE if they are given.
DEMO := $(if $(filter-out process,$(PROVIDER)),--provider $(PROVIDER) $(ENGINE:%=--engine %) $(IMAGE:%=--image %))
demo: .venv/.server ## a server, an endpoint, real requests: watch them routed, signed, served, autoscaled
	$(BIN)/posthouse demo $(DEMO)

serve: .venv/.server ## run the server on 127.0.0.1:8080
	$(BIN)/posthouse serve

market: .venv/.server ## run a simulated GPU market on 127.0.0.1:8090; ARGS="--run DIR" boots real workers there
	$(BIN)/posthouse market $(ARGS)

# Four files at a time on two processors: many of them wait for something.
# A file whose process ended begins again where it was, twice at most.
PYTEST := $(BIN)/python -m pytest -p no:schemathesis -n 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 2
test: .venv/.dev ## run the tests, but for those that are marked `long`
	$(PYTEST) -m "not long" --timeout 300 -o faulthandler_timeout=400

.PHONY: test-again test-long test-all
test-again: .venv/.dev ## run the tests that failed in the last run, one after another
	$(BIN)/python -m pytest -p no:schemathesis --last-failed -m "not long" --timeout 300

test-long: .venv/.dev ## run the tests that are marked `long`
	$(PYTEST) -m long

test-all: .venv/.dev ## run every test
	$(PYTEST)

coverage: .venv/.dev ## run what `make test` runs, and show which lines that is; the table goes to coverage.md
	$(PYTEST) -m "not long" --cov --cov-report=term --cov-report=markdown:coverage.md

lint: .venv/.dev ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.dev ## measure the hot path; results go to benchmarks/results
	$(BIN)/python -m benchmarks.route

evaluate: .venv/.dev ## our scaling against every rival and against the bounds; TRACES="FILE FOLDER ..."
	$(BIN)/python -m benchmarks.evaluate $(if $(TRACES),--traces $(TRACES)) $(ARGS)

drill: .venv/.dev ## list the drills; make drill NAME=crash runs one, results go to tests/resilience/results
	$(BIN)/python -m tests.resilience $(NAME) $(ARGS)

fuzz: .venv/.dev ## make over 100,000 calls that nobody foresaw; ends with 1 and the case where one breaks the server
	$(BIN)/python -m tests.fuzz

campaign: .venv/.dev ## live through 2,000 virtual days of faults; the record goes to tests/campaign
	$(BIN)/python -m tests.campaign --record tests/campaign/record.json

ticks: .venv/.dev ## live through a million random ticks, with random edits; the record goes to tests/sim
	$(BIN)/python -m tests.sim.ticks --record tests/sim/ticks.json

docs: .venv/.dev ## write the generated parts of the documentation again
	$(BIN)/python docs/generate.py

.PHONY: dashboards
dashboards: .venv/.dev ## write the dashboards for Grafana again, in monitoring/
	$(BIN)/python -m monitoring.dashboards

site: .venv/.dev ## build the documentation's site into site/; a broken link fails
	$(BIN)/python docs/site.py

peers: .venv/.dev ## record how unmodified peers do here, in docs/reference; PEERS=FOLDER: those that no registry has, too
	$(BIN)/python -m pytest -m peer --peers=docs/reference/peers.json tests
	$(BIN)/python docs/generate.py

console: .venv/.dev ## build the web page from console/ into src (needs Node 20.19 or later; users need none)
	$(BIN)/python docs/generate.py
	cd console && npm ci --ignore-scripts --no-audit --no-fund && npm run build

pictures: .venv/.dev ## make the pictures of the console for the documentation (needs chromium)
	$(BIN)/python -m tests.e2e.pictures

clients: .venv/.dev ## record how official clients do at a gateway; CLIENTS=FOLDER: where they are installed
	$(BIN)/python -m tests.clients $(CLIENTS)

wheel: .venv/.dev ## build the wheel and the source archive into dist/
	$(BIN)/python -m build --quiet

image: ## build the container images `posthouse`, `posthouse-gateway` and `posthouse-agent` (needs Docker)
	docker build --tag posthouse .
	docker build --target gateway --tag posthouse-gateway .
	docker build --target agent --tag posthouse-agent .

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
LOCK := $(COMPILE) --extra server --extra docker --extra postgres
lock: ## resolve the dependencies again (needs uv): for users, for gateways and agents, for contributors
	$(LOCK) --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra gateway --constraints requirements.lock --output-file requirements-gateway.lock pyproject.toml
	$(LOCK) --extra kubernetes --extra llama --extra oidc --extra otel --extra ssh --group dev --constraints requirements.lock --output-file requirements-dev.lock pyproject.toml

clean: ## remove what the targets made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist site coverage.md .coverage .coverage.*
