# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv by itself, and is quick the second time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint unit playbooks planted schema clean

demo: $(READY)
	$(BIN)/deadair run hotspot/backhaul_drop_4s $(ARGS)

test: lint unit playbooks planted

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"deadair needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}; say for example: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "setting up $(VENV) (first time only)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy conftest.py

unit: $(READY)
	$(BIN)/python -m pytest tests -q

# Every playbook, on the netns engine.
playbooks: $(READY)
	$(BIN)/deadair run --jobs 2

# Every planted defect, each against the playbook that must catch it.
planted: $(READY)
	$(BIN)/deadair planted --jobs 2

schema: $(READY)
	$(BIN)/deadair schema > scenarios/playbook.schema.json

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
