# Every target is idempotent and thin: the work is in hack/ and in the packages. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
release = $(IMAGE) $(if $(TAG),--tag $(TAG)) $(if $(REGISTRY),--push $(REGISTRY)) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE)) $(if $(JOBS),--jobs $(JOBS))
PYTHON := .venv/bin/python
# The locked Go toolchain comes before whatever this machine has.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# An exported KUBECONFIG is a habit, not a wish: another cluster is used only where it is named to make.
ifneq ($(origin KUBECONFIG),command line)
unexport KUBECONFIG
override KUBECONFIG :=
endif

.PHONY: help setup demo test test-addons test-chaos test-torch210 test-unit bench-trainer bench-operator lint format \
        generate lock docs images bundle cluster-up cluster-down cluster-status clean

help: ## Show this list
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## Install the locked packages into .venv, with the command .venv/bin/phitune
	@hack/setup

demo: setup ## Fine-tune on a real Kubernetes, from nothing to the score (KUBECONFIG=, REGISTRY=: your own cluster)
	@$(PYTHON) hack/demo

test: setup ## Run every test: unit, integration, end to end (builds images and the local cluster)
	@$(PYTHON) hack/run_tests.py

test-addons: setup ## Run the tests on a local cluster with Kueue and other projects' controllers (compiles them first)
	@$(PYTHON) hack/demo --build-only
	@$(PYTHON) -m pytest -m addons tests/addons

test-chaos: setup ## Break what can break on a local cluster, into build/chaos.json (under 75 minutes)
	@$(PYTHON) hack/demo --build-only
	@$(PYTHON) -m pytest -m chaos tests/chaos --chaos-report build/chaos.json

test-torch210: ## Run the trainer's unit tests on the packages of the image for V100 (in build/torch210, 7 GB)
	@hack/test-torch210

test-unit: setup ## Run the unit tests: nothing but Python, in two minutes or so
	@$(PYTHON) -m pytest -n auto -m "not slow" tests/unit

bench-trainer: setup ## Measure the trainer, into build/bench-trainer.json (ONLY=row for one row)
	@$(PYTHON) benchmarks/trainer $(if $(ONLY),--only $(ONLY))

bench-operator: setup ## Measure the operator under load, into build/bench-operator.json (ONLY=row for one row)
	@$(PYTHON) hack/cluster build --with kwok
	@$(PYTHON) benchmarks/operator $(if $(ONLY),--only $(ONLY))

lint: setup ## Check style, types, import rules, locks and generated files
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo
	@$(PYTHON) hack/lock.py --check
	@$(PYTHON) -m phitune_operator.schema --check
	@$(PYTHON) hack/chart_readme.py --check
	@$(PYTHON) hack/recipe_memory.py --check
	@$(PYTHON) hack/which_gpu.py --check

format: setup ## Let ruff mend what it can
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

generate: setup ## Write what is made of other files: the CRD and its reference, the chart's README, tables of docs/
	@$(PYTHON) -m phitune_operator.schema
	@$(PYTHON) hack/chart_readme.py
	@$(PYTHON) hack/recipe_memory.py
	@$(PYTHON) hack/which_gpu.py

lock: setup ## Resolve requirements/*.txt anew within pyproject.toml (UPGRADE=1: to the newest versions)
	@$(PYTHON) hack/lock.py $(if $(UPGRADE),--upgrade)

docs: ## Build the documentation into site/
	@hack/docs

images: setup ## Build the release's images: operator, trainer in three builds (TAG=; REGISTRY=: push; IMAGE=: one; JOBS=)
	@$(PYTHON) hack/images build --release $(release)

bundle: setup ## Write the release's images, chart and CRDs as one archive, build/phitune-bundle.tar (TAG=; BASE_IMAGE=)
	@$(PYTHON) hack/images build --release --bundle build/phitune-bundle.tar $(release)

cluster-up: setup ## Start a local Kubernetes of two nodes (NODES=n for another number)
	@$(PYTHON) hack/cluster build
	@$(PYTHON) hack/cluster up $(if $(NODES),--nodes $(NODES))

cluster-down: ## Stop the local Kubernetes and remove all of it but its binaries
	@$$(hack/find-python) hack/cluster down

cluster-status: ## Show the nodes and pods of the local Kubernetes
	@$$(hack/find-python) hack/cluster status

clean: ## Remove what was built in this folder (caches outside it stay)
	@rm -rf .venv build site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
