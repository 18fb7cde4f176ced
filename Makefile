PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS ?= dev
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo test slow check reference format bench gpu-check chaos equality clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

setup: $(READY)  ## make .venv with the exact versions of constraints.txt

demo: $(READY)  ## from nothing to a registered model, and what unlabeled clips are worth
	$(BIN)/python jobs/make_demo_corpus.py jobs/configs/demo_corpus.yaml
	$(BIN)/python jobs/prepare_corpus.py jobs/configs/prepare/demo.yaml
	$(BIN)/python jobs/train_model.py jobs/configs/demo.yaml
	$(BIN)/python jobs/compare_objectives.py jobs/configs/compare/demo.yaml

# Three: those with the tests on Ray wait for other processes most of the time. In the order of tests/conftest.py.
test: $(READY)  ## run the tests in three processes, but for some long ones of kinds that it has already
	$(BIN)/python -m pytest -m "not slow" --numprocesses 3 --dist loadgroup --no-loadscope-reorder

slow: $(READY)  ## run the tests that make test leaves out
	$(BIN)/python -m pytest -m slow

check: $(READY)  ## lint, format, types, layers and the list of settings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=platform $(BIN)/lint-imports
	$(BIN)/python -m vavl.settings_reference --check

reference: $(READY)  ## write jobs/configs/REFERENCE.md, the list of all settings
	$(BIN)/python -m vavl.settings_reference

format: $(READY)  ## put the code into its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## run the benchmarks; tables on the screen, JSON under runs/bench
	$(BIN)/python tests/benchmarks/run_all.py

gpu-check: $(READY)  ## check training on the GPUs of this machine, one or several; a table, and JSON in runs/gpu_check
	$(BIN)/python tests/benchmarks/gpu_check.py

chaos: $(READY)  ## kill, fill, tear and starve trainings for real; a table, and JSON in runs/chaos
	$(BIN)/python -W ignore tests/chaos/run_chaos.py

equality: $(READY)  ## compare the loss curves of workers, ZeRO stages, precisions and resumed runs; a table and runs/equality
	$(BIN)/python tests/equality/run_equality.py

clean:  ## remove the environment and the results
	rm -rf $(VENV) runs
