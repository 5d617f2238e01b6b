# Everything that a developer or CI runs. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: node-test sizing-report process-test help venv venv-path lock check test unit cluster-test crd docs demo demo-down bench soak golden

PYTHON ?= python3
CACHE := $(or $(VLLM_OPERATOR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/vllm-operator)
export VLLM_OPERATOR_CACHE := $(CACHE)
# One environment per lock file and interpreter, outside the repository: clones share it, an edit of the lock makes a new one.
VENV := $(CACHE)/venv-$(shell { cat requirements/dev.txt; $(PYTHON) -VV; } 2>/dev/null | sha256sum | cut -c1-12)
BIN := $(VENV)/bin
export PYTHONPATH := operator:tests
# Compiled once, and never into the source tree.
export PYTHONPYCACHEPREFIX := $(CACHE)/pycache
export MYPY_CACHE_DIR := $(CACHE)/mypy
export RUFF_CACHE_DIR := $(CACHE)/ruff
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

venv: $(VENV)/.done ## create the pinned virtual environment (cached outside the repository)
$(VENV)/.done: requirements/dev.txt
	@scripts/make-venv "$(PYTHON)" "$(VENV)"

venv-path: venv ## print where the virtual environment is
	@echo $(VENV)

lock: ## resolve requirements/*.in into hashed lock files (names, versions and hashes only)
	@scripts/lock

check: venv ## lint, format, types, import layers, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m vllm_operator crd --check
	$(BIN)/python scripts/generate.py --check

crd: venv ## write the CRD, its copies and the generated documentation
	$(BIN)/python -m vllm_operator crd
	$(BIN)/python scripts/generate.py

unit: venv ## pure tests, no cluster, in seconds
	@$(BIN)/python scripts/run_tests.py unit

process-test: venv ## the commands as processes, the built package, laws over many examples; no cluster
	$(BIN)/python -m pytest tests/process

cluster-test: venv ## tests against a real control plane on this machine
	$(BIN)/python -m pytest tests/cluster

node-test: venv ## tests in real pods on a real node with the real vLLM (root)
	$(BIN)/python -m pytest tests/node

test: venv ## everything that passes without a GPU and without Docker
	@$(BIN)/python scripts/run_tests.py

golden: venv ## rewrite the reviewed manifests in tests/golden from the samples
	$(BIN)/python -m pytest tests/unit/test_golden.py --update-golden

bench: venv ## measure convergence beside a bare client, and the time to a first token beside bare vLLM
	$(BIN)/python -m bench
	$(BIN)/python -m bench.first_token

soak: venv ## a change a second for two minutes, or days: memory, tasks, age of the queue
	$(BIN)/python -m soak

demo: venv ## local cluster, operator, samples: Ready on simulated GPU nodes
	@$(BIN)/python -m demo

demo-down: venv ## stop what `make demo` started
	@$(BIN)/python -m demo --down

sizing-report: venv ## every measured start of vLLM beside what sizing predicts for it
	$(BIN)/python -m sizing.report
