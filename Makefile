# make quickstart | test | lint | setup
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup quickstart test lint clean

setup: $(VENV)/.installed  ## a virtual environment with what running needs

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-test.txt
	touch $@

quickstart: $(VENV)/.installed  ## train and evaluate on real photographs
	$(BIN)/python -m invad_jax.train --config configs/hazelnut.py
	$(BIN)/python -m invad_jax.eval --config configs/hazelnut.py

test: $(VENV)/.installed-test  ## every test that this machine can run
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs
