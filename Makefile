# `make` alone says what there is to make.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENVIRONMENT := $(VENV)/.made
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tunesmith
DEMO := build/demo
DEMO_PORT ?= 18080
DEMO_URL = http://127.0.0.1:$(DEMO_PORT)

UV := $(BIN)/uv
TUNESMITH := $(BIN)/tunesmith
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command 'make lock'

.PHONY: help
help: ## This list
	@echo 'Tunesmith: from a folder of labelled images to a verified model.'
	@echo
	@echo 'Start here:   make demo        the whole way once, on a small data set'
	@echo '              make test        everything this machine can test'
	@echo
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z_%-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo 'Settings:     make demo PYTHON=python3.12 CACHE=/somewhere/with/space'

## The environment: made once, and again when a lock or pyproject.toml changes.

.PHONY: environment
environment: $(ENVIRONMENT) ## The Python environment in .venv, exactly as locked

$(ENVIRONMENT): tests/bootstrap.txt tests/requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Tunesmith needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
	       "Install a newer one and name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --require-hashes --requirement tests/bootstrap.txt
	$(UV) pip install --python $(BIN)/python --require-hashes --requirement tests/requirements.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

## What people come for.

.PHONY: demo
demo: $(ENVIRONMENT) ## From a spec to predictions on Fashion-MNIST, in build/demo
	@mkdir -p $(DEMO)
	@cp manifests/examples/demo.yaml $(DEMO)/job.yaml
	@echo 'Step 1 of 3: weights and data'
	@$(TUNESMITH) fetch weights mobilenet_v2 --to $(DEMO)/weights --cache-dir '$(CACHE)'
	@$(TUNESMITH) fetch data FashionMNIST --to $(DEMO)/data --samples $(DEMO)/photos
	@echo; echo 'Step 2 of 3: tunesmith run -f $(DEMO)/job.yaml'
	@$(TUNESMITH) run -f $(DEMO)/job.yaml --result $(DEMO)/result.json --cache-dir '$(CACHE)'
	@echo; echo 'Step 3 of 3: tunesmith serve $(DEMO)/result.json --port $(DEMO_PORT)'
	@echo '             tunesmith predict $(DEMO_URL) $(DEMO)/photos/*.png --explain $(DEMO)/why'
	@$(TUNESMITH) serve $(DEMO)/result.json --port $(DEMO_PORT) >$(DEMO)/server.log 2>&1 & \
	  trap "kill $$! && wait $$! || true" EXIT; \
	  $(TUNESMITH) predict $(DEMO_URL) $(DEMO)/photos/*.png --explain $(DEMO)/why --wait 60 \
	    --digest "$$($(BIN)/python -c "import json; print(json.load(open('$(DEMO)/result.json'))['status']['model']['digest'])")" \
	  || { tail -5 $(DEMO)/server.log; exit 1; }
	@echo; $(BIN)/python -c "import json; print('Report  ', json.load(open('$(DEMO)/result.json'))['status']['reportUri'])"
	@echo 'Try it   $(TUNESMITH) serve $(DEMO)/result.json, then open http://127.0.0.1:8080'

.PHONY: test
test: $(ENVIRONMENT) chromium ## Every test this machine can run, and a list of what it left out
	@echo 'First the tests with a control plane, which mostly wait, and the others beside them; then tests/resilience,'
	@echo 'which starves trainers and takes their store away for seconds, alone'
	@failed=0; \
	$(BIN)/python -m pytest -n 2 --ignore tests/resilience || failed=1; \
	$(BIN)/python -m pytest tests/resilience || failed=1; \
	exit $$failed

.PHONY: test-resilience
test-resilience: $(ENVIRONMENT) ## Only those that kill, stop, starve and cut off real trainers
	$(BIN)/python -m pytest tests/resilience

.PHONY: test-controlplane
test-controlplane: $(ENVIRONMENT) ## Only those with a real kube-apiserver, which is built the first time
	$(BIN)/python -m pytest tests/controlplane

.PHONY: controlplane-prepare
controlplane-prepare: $(ENVIRONMENT) ## Build what the control plane of these tests is made of
	@$(BIN)/python -m tests.testbed.control_plane

.PHONY: test-cluster
test-cluster: cluster-prepare ## Only those on a real node (root on Linux; built the first time), or on KUBECONFIG's
	$(BIN)/python -m pytest tests/cluster

.PHONY: test-end-to-end
test-end-to-end: cluster-prepare ## Of these the way from kubectl apply to predictions, as CI runs it
	$(BIN)/python -m pytest tests/cluster/test_end_to_end.py -s

.PHONY: cluster-prepare
cluster-prepare: $(ENVIRONMENT) ## Build and fetch what the cluster on this machine is made of
	@if [ -z "$${KUBECONFIG:-}" ]; then $(BIN)/python -m tests.testbed.cluster prepare; \
	else echo "Nothing is built: KUBECONFIG names a cluster, $$KUBECONFIG"; fi

.PHONY: cluster-up
cluster-up: $(ENVIRONMENT) ## A real cluster on this machine (root on Linux), ready to be used
	@$(BIN)/python -m tests.testbed.cluster up

.PHONY: cluster-down
cluster-down: $(ENVIRONMENT) ## Take it away, with all that it changed on this machine
	@$(BIN)/python -m tests.testbed.cluster down

.PHONY: chaos
chaos: $(ENVIRONMENT) ## Random schedules for the operator (SEEDS=1000 FIRST=1), the failing ones shortened
	TUNESMITH_SCHEDULES=$(or $(SEEDS),1000) TUNESMITH_FIRST_SEED=$(or $(FIRST),1) TUNESMITH_SHRINK=1 \
	  $(BIN)/python -m pytest tests/controlplane/test_schedules.py

.PHONY: test-unit
test-unit: $(ENVIRONMENT) ## The fast tests
	$(BIN)/python -m pytest tests/unit

.PHONY: lint
lint: $(ENVIRONMENT) ## ruff, ruff format, mypy strict, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(ENVIRONMENT) ## Put the code into the shape that `make lint` asks for
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

## Chromium reads the report in the browser tests; without it they say that they were left out.

.PHONY: chromium
chromium:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo 'Installing chromium and chromium-driver for the browser tests'; \
	  { apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver; \
	  } >/dev/null || echo 'They could not be installed: the browser tests will be left out'; \
	else echo 'Without chromium and chromium-driver the browser tests will be left out'; fi

## Benchmarks: each tests/bench/NAME.py is one, run alone by `make bench-NAME` (ARGS=--help lists its options).

BENCHES := $(patsubst tests/bench/%.py,%,$(filter-out %/__init__.py,$(wildcard tests/bench/*.py)))

.PHONY: bench
bench: $(addprefix bench-,$(BENCHES)) ## Every benchmark in tests/bench; make bench-NAME for one of them

bench-%: $(ENVIRONMENT)
	$(BIN)/python -m tests.bench.$* $(ARGS)

## Images: by docker, podman or buildah, whichever is here (images/README.md).

IMAGES := operator trainer predictor
BASE_IMAGE ?= python:3.11-slim-bookworm
REGISTRY ?= tunesmith.dev
TAG ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo latest)
BUILDER ?= $(shell docker info >/dev/null 2>&1 && echo docker || command -v podman || command -v buildah)
BUILD_FLAGS ?=
# One date for every file, so that two builds do not differ. Docker finds the ignore file by itself.
DIALECT = $(if $(filter docker,$(notdir $(BUILDER))),--build-arg SOURCE_DATE_EPOCH=0,\
	--layers --timestamp 0 --ignorefile images/$*/Dockerfile.dockerignore)

.PHONY: images
images: $(addprefix image-,$(IMAGES)) ## The three images (BASE_IMAGE= REGISTRY= TAG= BUILDER= BUILD_FLAGS=), and their sizes
	@for image in $(IMAGES); do $(BUILDER) images $(REGISTRY)/$$image:$(TAG); done

image-%:
	@test -n '$(BUILDER)' || { echo 'Images are built by docker, podman or buildah: install one of them' >&2; exit 1; }
	$(BUILDER) build $(DIALECT) $(BUILD_FLAGS) --build-arg BASE_IMAGE=$(BASE_IMAGE) \
	  --label org.opencontainers.image.revision=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
	  --file images/$*/Dockerfile --tag $(REGISTRY)/$*:$(TAG) .

## Generated files.

CHART_FILES := charts/tunesmith/files
CHART_FOLDERS := crds rbac admission serving

.PHONY: generate
generate: $(ENVIRONMENT) ## The CRDs from the pydantic models, and the chart's copies of the manifests
	$(BIN)/python -m tunesmith_api.crd
	rm -rf $(CHART_FILES) && mkdir $(CHART_FILES)
	cp -r $(addprefix manifests/,$(CHART_FOLDERS)) $(CHART_FILES)

.PHONY: verify-generated
verify-generated: $(ENVIRONMENT) ## Fail when a generated file or a lock is not what its source says
	$(BIN)/python -m tunesmith_api.crd --check
	@for folder in $(CHART_FOLDERS); do diff -r manifests/$$folder $(CHART_FILES)/$$folder || { \
	    echo "$(CHART_FILES) is not what manifests holds: run 'make generate' and commit the result" >&2; exit 1; }; \
	done
	@echo 'The chart holds the manifests as they are'
	@$(MAKE) --no-print-directory lock LOCKS='$(VENV)/locks/'
	@for lock in $(LOCK_FILES); do \
	  diff <(sed '/--hash=/d; s/ \\$$//' $$lock) <(sed '/--hash=/d; s/ \\$$//' $(VENV)/locks/$$lock) || { \
	    echo "$$lock is not what pyproject.toml asks for: run 'make lock' and commit the result" >&2; exit 1; }; \
	done
	@echo 'The locks are what pyproject.toml asks for'

# Pins that still fit stay as they are. A version's list of hashes grows when its authors add a wheel for another
# platform, so the check above compares versions and leaves the hashes to the installer.
LOCK_FILES := tests/bootstrap.txt tests/requirements.txt tests/bench/plain/requirements.txt \
	images/trainer/requirements.txt images/predictor/requirements.txt images/operator/requirements.txt
LOCKS :=
# Of an image's lock, as "IMAGE DISTRIBUTION": torch's compiler is 1 GB, and the trainer never compiles.
LEFT_OUT := trainer triton
.PHONY: lock
lock: ## Resolve the requirements again (LOCK_FLAGS=--upgrade for newer versions)
	@test -x $(UV) || { $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --require-hashes --requirement tests/bootstrap.txt; }
	@if [ -n '$(LOCKS)' ]; then for lock in $(LOCK_FILES); do mkdir -p $(LOCKS)$${lock%/*}; cp $$lock $(LOCKS)$$lock; done; fi
	@$(LOCK) $(LOCK_FLAGS) --group bootstrap --output-file $(LOCKS)tests/bootstrap.txt
	@$(LOCK) $(LOCK_FLAGS) pyproject.toml --all-extras --group dev --output-file $(LOCKS)tests/requirements.txt
	@$(LOCK) $(LOCK_FLAGS) --group servers --output-file $(LOCKS)tests/bench/plain/requirements.txt \
	  --constraint <(sed -nE 's/^((kserve|onnxruntime|pillow|torch|torchvision)==[^ ]+).*/\1/p' tests/requirements.txt)
	@for image in trainer predictor operator; do \
	  $(LOCK) $(LOCK_FLAGS) pyproject.toml --extra $$image --constraint tests/requirements.txt \
	    --excludes <(sed -n "s/^$$image //p" <<< '$(LEFT_OUT)') --output-file $(LOCKS)images/$$image/requirements.txt; done

.PHONY: clean
clean: ## Remove the environment and what was built (the cache folder stays)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
