# The platform's commands; `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Each test worker starts a PostgreSQL of its own; one worker uses a server that is given.
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
.PHONY: help run dev migrate migration renumber resource client client-ts generate diff manifests image test \
  test-platform lint stale check certify certify-mutants breaking fuzz resilience scan audit image-test bench docs format golden \
  requirements clean

help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Run
run: $(VENV)/local.stamp ## Serve the contract on http://127.0.0.1:8080 with an embedded PostgreSQL
	@$(BIN)/python -m dev.local run

dev: $(VENV)/local.stamp ## Like run, but restart when the contract or the code changes
	@$(BIN)/python -m dev.local watch

migrate: $(VENV)/local.stamp ## Migrate the database of MIGRATION_DATABASE_URL to the newest revision
	@$(BIN)/python -m service migrate

##@ Change
# In both: a NAME from the command line only, since some environments have one.
resource: $(VENV)/local.stamp ## Add a resource: make resource NAME=tasks FIELDS="title:string(1..200)"
	@$(if $(filter command,$(origin NAME)),,NAME=) $(BIN)/python -m dev.scaffold

migration: $(VENV)/local.stamp ## Write the migration that the contract's tables need
	@$(BIN)/python -m dev.planner $(if $(filter command,$(origin NAME)),--name "$(NAME)") $(ARGS)

renumber: $(VENV)/local.stamp ## Bring the revisions of two merged branches into one line
	@$(BIN)/python -m dev.planner.renumbering $(if $(filter command,$(origin BASE)),--base "$(BASE)")

client: $(VENV)/local.stamp $(VENV)/client/stamp ## Generate a typed Python client: build/client
	@rm -rf build/client && mkdir -p build && $(BIN)/python -m dev.public_contract > build/openapi.json
	@PATH="$(CURDIR)/$(VENV)/client/bin:$$PATH" openapi-python-client generate \
	  --path build/openapi.json --output-path build/client --fail-on-warning

client-ts: $(VENV)/local.stamp ## Generate TypeScript types: build/client-ts (needs Node)
	@mkdir -p build && $(BIN)/python -m dev.public_contract > build/openapi.json
	npx --yes openapi-typescript@$(OPENAPI_TYPESCRIPT) build/openapi.json \
	  --default-non-nullable=false -o build/client-ts/contract.ts
	npx --yes --package typescript@$(TYPESCRIPT) tsc --noEmit --strict build/client-ts/contract.ts

##@ Deploy
generate: $(VENV)/test.stamp ## Generate charts/ and argo/ from the contract
	@$(BIN)/python -m codegen

diff: $(VENV)/test.stamp ## Show what `make generate` would change
	@$(BIN)/python -m codegen --diff

manifests: $(VENV)/test.stamp ## Print the rendered manifests: make manifests ENV=local
	@$(BIN)/python -m codegen.manifests $(ENV)

image: ## Build the image of the chart for this machine (needs Docker)
	docker build --tag $(IMAGE):$(VERSION) --build-arg VERSION=$(VERSION) \
	  --build-arg CONTRACT=$(CONTRACT) $(DOCKER_OPTIONS) .

##@ Verify (changes no committed file)
check: stale lint test certify ## Run everything that a change must pass

test: $(VENV)/test.stamp ## Run your tests, and those derived from the contract, on a real PostgreSQL
	$(BIN)/python -m pytest --ignore=tests/platform $(ARGS)

test-platform: $(VENV)/test.stamp ## Run the platform's own tests, on its sample contract
	$(BIN)/python -m tests.platform $(PARALLEL) --cov --cov-report=term $(ARGS)

lint: $(VENV)/test.stamp ## Check format, style, types and the contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m openapi.contract
	$(BIN)/python -m dev.lint

stale: $(VENV)/test.stamp ## Fail if charts/, argo/ or the migrations are stale
	@$(BIN)/python -m codegen --check; charts=$$?; \
	$(BIN)/python -m dev.planner --check && exit $$charts

certify: $(VENV)/test.stamp ## Certify tenant isolation: build/certificate.html
	$(BIN)/python -m evidence.certificate $(ARGS)

certify-mutants: $(VENV)/test.stamp ## Inject faults that the certificate must find (10 minutes)
	$(BIN)/python -m evidence.certificate mutants $(ARGS)

breaking: $(VENV)/test.stamp ## Check for breaking changes: make breaking BASE=main
	$(BIN)/python -m dev.breaking --base $(BASE)

fuzz: $(VENV)/test.stamp ## Fuzz the service with 20,000 cases: make fuzz ARGS="--seed 7"
	$(BIN)/python -m evidence.fuzz --cases 20000 $(ARGS)

resilience: $(VENV)/test.stamp ## Test failures under load: build/resilience.md
	$(BIN)/python -m evidence.resilience $(ARGS)

scan: $(VENV)/test.stamp $(VENV)/checkov/stamp ## Scan the rendered manifests with Checkov
	$(BIN)/python -m pytest -s -q tests/platform/scan_chart.py

audit: $(VENV)/audit/stamp ## Audit the image's dependencies (needs the network)
	$(VENV)/audit/bin/pip-audit --disable-pip --require-hashes -r requirements/service.txt

image-test: $(VENV)/test.stamp ## Test the image read-only, with any uid, no capabilities (needs Docker)
	IMAGE=$(IMAGE):$(VERSION) TESTCONTAINERS_RYUK_DISABLED=true \
	  $(BIN)/python -m pytest -s -q tests/platform/image_flow.py

bench: $(VENV)/test.stamp ## Benchmark the service and its peers (needs wrk)
	$(BIN)/python -m evidence.benchmark $(ARGS)

# From scratch: an incremental build does not repeat the warnings of unchanged pages.
docs: $(VENV)/docs/stamp ## Build the documentation site: build/docs
	@rm -rf build/docs build/doctrees
	@$(VENV)/docs/bin/sphinx-build -W --keep-going -n -q -d build/doctrees docs build/docs
	@echo build/docs/index.html

##@ Maintain
format: $(VENV)/test.stamp ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: $(VENV)/test.stamp ## Rewrite tests/platform/golden and sample after an intended change
	cp openapi/openapi.yaml tests/platform/sample/
	cp handlers/*.py tests/platform/sample/handlers/
	cp db/migrations/versions/*.py tests/platform/sample/versions/
	$(BIN)/python -m tests.platform.fix_chart

requirements: $(VENV)/test.stamp ## Pin the requirements again, with hashes
	$(BIN)/python -m pip install --quiet uv
	for name in service local tools client test checkov audit docs; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --override requirements/overrides.txt --no-emit-index-url --no-header requirements/$$name.in -o requirements/$$name.txt || exit 1; \
	done

clean: ## Remove everything installed or built, and the data of `make run`
	rm -rf $(VENV) .local build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

# Tools whose pins conflict with those of the tests have environments of their own.
$(VENV)/%/stamp: requirements/%.txt
	@echo "Installing $< into $(VENV)/$*"
	@$(PYTHON) -m venv $(VENV)/$*
	@$(VENV)/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  --no-deps -r $<
	@touch $@

# A stamp is newer than the requirements that were installed.
$(VENV)/%.stamp: requirements/%.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is required: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv module is required (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Installing $< into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	  --only-binary :all: -r $<
	@touch $@
