# make setup | quickstart | test | lint | clean
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet
# A second interpreter that the unit tests also run on, where this machine has one.
PYTHON312 ?= $(shell for p in python3.12 $$HOME/.pyenv/versions/3.12.*/bin/python3.12; do \
	"$$p" -c '' 2>/dev/null && echo "$$p" && break; done)

.PHONY: setup quickstart test test-312 lint clean

setup: $(VENV)/.installed  ## a virtual environment with what running needs

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt
	$(PIP) --requirement requirements-test.txt
	touch $@

$(VENV)/.installed-oracles: $(VENV)/.installed-test requirements-oracles.txt requirements-oracles-nodeps.txt
	$(PIP) --requirement requirements-oracles.txt
	$(PIP) --no-deps --requirement requirements-oracles-nodeps.txt
	touch $@

quickstart: $(VENV)/.installed  ## train and evaluate on real photographs
	$(BIN)/python -m invad_jax.train --config configs/hazelnut.py
	$(BIN)/python -m invad_jax.eval --config configs/hazelnut.py

test: $(VENV)/.installed-oracles  ## every test that this machine can run
	$(BIN)/python -m pytest

test-312:  ## the unit tests on a second Python
ifneq ($(PYTHON312),)
	$(MAKE) $(VENV)312/.installed-test VENV=$(VENV)312 PYTHON=$(PYTHON312)
	$(VENV)312/bin/python -m pytest tests/unit
else
	@echo "no Python 3.12 here: its run of the unit tests is left out"
endif

lint: $(VENV)/.installed-test  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(VENV)312 runs
