# Covenant: `make` lists what there is. Settings are given behind the command: make run PORT=9000
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run dev migrate generate manifests test lint check stale fuzz format requirements clean

help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Run
run: $(VENV)/local.stamp ## Serve the contract on http://127.0.0.1:8080, with a PostgreSQL if none is given
	@$(BIN)/python -m handlers.runtime local

dev: $(VENV)/local.stamp ## The same, started again when the contract or the code changes
	@$(BIN)/python -m handlers.runtime dev

migrate: $(VENV)/local.stamp ## Bring the schema of MIGRATION_DATABASE_URL to the newest revision
	@$(BIN)/python -m handlers.runtime migrate

##@ Prove (changes nothing)
check: lint test ## Everything a change must pass

test: $(VENV)/test.stamp ## Run the tests against a real PostgreSQL
	$(BIN)/python -m pytest --cov --cov-report=term $(ARGS)

lint: $(VENV)/test.stamp ## Check format, style, types and the contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m openapi.contract

fuzz: $(VENV)/test.stamp ## Fuzz the running service with 20,000 cases: make fuzz ARGS="--seed 7"
	$(BIN)/python -m tests.fuzz --cases 20000 $(ARGS)

##@ Maintain
format: $(VENV)/test.stamp ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

requirements: $(VENV)/test.stamp ## Pin the requirements anew, with hashes
	$(BIN)/python -m pip install --quiet uv
	for name in service local test; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header requirements/$$name.in -o requirements/$$name.txt || exit 1; \
	done

clean: ## Remove what was installed and made; the data of `make run` too
	rm -rf $(VENV) .local build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

# A stamp is newer than the requirements that it stands for.
$(VENV)/%.stamp: requirements/%.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv is needed (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Installing $< into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	  --only-binary :all: -r $<
	@touch $@
