# Covenant: `make` lists what there is. Settings are given behind the command: make run PORT=9000
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Each worker has a server of its own; one that is given is shared, so there is one worker.
PARALLEL ?= $(if $(TEST_DATABASE_URL),,-n 2 --dist loadfile)
ENV ?= local
OPENAPI_TYPESCRIPT := 7.13.0
TYPESCRIPT := 7.0.2
BASE ?= HEAD

CHART = $(notdir $(wildcard charts/*))
IMAGE = $(shell sed -n 's/^  repository: "\(.*\)"$$/\1/p' charts/$(CHART)/values.yaml)
VERSION = $(shell sed -n 's/^version: "\(.*\)"$$/\1/p' charts/$(CHART)/Chart.yaml)
CONTRACT = sha256:$(shell sha256sum openapi/openapi.yaml | cut -d ' ' -f 1)

.DEFAULT_GOAL := help
.PHONY: help run dev migrate migration resource client client-ts generate diff manifests image test \
  lint stale check certify certify-mutants breaking fuzz resilience scan audit image-test bench format golden \
  requirements clean

help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Run
run: $(VENV)/local.stamp ## Serve the contract on http://127.0.0.1:8080, with a PostgreSQL if none is given
	@$(BIN)/python -m dev.local run

dev: $(VENV)/local.stamp ## The same, started again when the contract or the code changes
	@$(BIN)/python -m dev.local watch

migrate: $(VENV)/local.stamp ## Bring the schema of MIGRATION_DATABASE_URL to the newest revision
	@$(BIN)/python -m service migrate

##@ Change
resource: $(VENV)/local.stamp ## Add one to the contract: make resource NAME=tasks FIELDS="title:string(1..200)"
	@$(BIN)/python -m dev.scaffold

# NAME as it was given to make, and not one of the environment.
migration: $(VENV)/local.stamp ## Write the revision that the contract's tables need: make migration NAME=tasks
	@$(BIN)/python -m dev.planner $(if $(filter command,$(origin NAME)),--name "$(NAME)") $(ARGS)

client: $(VENV)/local.stamp $(VENV)/client/stamp ## Write a typed Python client of the contract: build/client
	@rm -rf build/client && mkdir -p build && $(BIN)/python -m dev.public_contract > build/openapi.json
	@PATH="$(CURDIR)/$(VENV)/client/bin:$$PATH" openapi-python-client generate \
	  --path build/openapi.json --output-path build/client --fail-on-warning

client-ts: $(VENV)/local.stamp ## Write the contract's types for TypeScript: build/client-ts (needs Node)
	@mkdir -p build && $(BIN)/python -m dev.public_contract > build/openapi.json
	npx --yes openapi-typescript@$(OPENAPI_TYPESCRIPT) build/openapi.json \
	  --default-non-nullable=false -o build/client-ts/contract.ts
	npx --yes --package typescript@$(TYPESCRIPT) tsc --noEmit --strict build/client-ts/contract.ts

##@ Deploy
generate: $(VENV)/test.stamp ## Write charts/ and argo/ from the contract
	@$(BIN)/python -m codegen

diff: $(VENV)/test.stamp ## Show what a change of the contract does to charts/ and argo/
	@$(BIN)/python -m codegen --diff

manifests: $(VENV)/test.stamp ## Print what Argo CD would apply: make manifests ENV=local
	@$(BIN)/python -m codegen.manifests $(ENV)

image: ## Build the image that the chart names, for this machine (needs Docker)
	docker build --tag $(IMAGE):$(VERSION) --build-arg VERSION=$(VERSION) \
	  --build-arg CONTRACT=$(CONTRACT) $(DOCKER_OPTIONS) .

##@ Prove (changes nothing)
check: stale lint test ## Everything a change must pass

test: $(VENV)/test.stamp ## Run the tests against a real PostgreSQL
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term $(ARGS)

lint: $(VENV)/test.stamp ## Check format, style, types and the contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m openapi.contract
	$(BIN)/python -m dev.lint

stale: $(VENV)/test.stamp ## Fail if charts/, argo/ or the migrations differ from the contract
	@$(BIN)/python -m codegen --check; charts=$$?; \
	$(BIN)/python -m dev.planner --check && exit $$charts

certify: $(VENV)/test.stamp ## Prove the isolation of tenants: build/certificate.html
	$(BIN)/python -m evidence.certificate $(ARGS)

certify-mutants: $(VENV)/test.stamp ## Plant faults; the certificate must find each (10 minutes)
	$(BIN)/python -m evidence.certificate mutants $(ARGS)

breaking: $(VENV)/test.stamp ## Say what a change of the contract breaks: make breaking BASE=main
	$(BIN)/python -m dev.breaking --base $(BASE)

fuzz: $(VENV)/test.stamp ## Fuzz the running service with 20,000 cases: make fuzz ARGS="--seed 7"
	$(BIN)/python -m evidence.fuzz --cases 20000 $(ARGS)

resilience: $(VENV)/test.stamp ## Restart, kill, flood and starve the service under load: build/resilience.md
	$(BIN)/python -m evidence.resilience $(ARGS)

scan: $(VENV)/test.stamp $(VENV)/checkov/stamp ## Scan everything that the chart renders with Checkov
	$(BIN)/python -m pytest -s -q tests/platform/scan_chart.py

audit: $(VENV)/audit/stamp ## Ask for known vulnerabilities of what the image carries (needs the network)
	$(VENV)/audit/bin/pip-audit --disable-pip --require-hashes -r requirements/service.txt

image-test: $(VENV)/test.stamp ## Run the image read-only, as anybody, without capabilities (needs Docker)
	IMAGE=$(IMAGE):$(VERSION) TESTCONTAINERS_RYUK_DISABLED=true \
	  $(BIN)/python -m pytest -s -q tests/platform/image_flow.py

bench: $(VENV)/test.stamp ## Measure the service beside its peers (needs wrk)
	$(BIN)/python -m evidence.benchmark $(ARGS)

##@ Maintain
format: $(VENV)/test.stamp ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: $(VENV)/test.stamp ## Write tests/platform/golden anew, after a template was changed on purpose
	$(BIN)/python -m tests.platform.fix_chart

requirements: $(VENV)/test.stamp ## Pin the requirements anew, with hashes
	$(BIN)/python -m pip install --quiet uv
	for name in service local tools client test checkov audit; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header requirements/$$name.in -o requirements/$$name.txt || exit 1; \
	done

clean: ## Remove what was installed and made; the data of `make run` too
	rm -rf $(VENV) .local build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

# Tools whose pins contradict those of the tests live apart: .venv/checkov, .venv/audit.
$(VENV)/%/stamp: requirements/%.txt
	@echo "Installing $< into $(VENV)/$*"
	@$(PYTHON) -m venv $(VENV)/$*
	@$(VENV)/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  --no-deps -r $<
	@touch $@

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
