# make setup | quickstart | bench | docs | test | test-fast | test-kills | lint | clean; what tests cost: docs/development.md
find_python = $(shell for p in python$(1) $$HOME/.pyenv/versions/$(1).*/bin/python$(1); do \
	"$$p" -c '' 2>/dev/null && echo "$$p" && break; done)
# The tested pairs are 3.12 with JAX 0.12, and 3.11 with JAX 0.10, the last that runs there and the
# one that torch, the oracle of the parity tests, is light for. Both run where both are.
PYTHON312 ?= $(call find_python,3.12)
PYTHON311 ?= $(call find_python,3.11)
PYTHON ?= $(or $(PYTHON312),$(PYTHON311),python3)
VENV ?= .venv
VENV311 ?= $(if $(filter $(PYTHON),$(PYTHON311)),$(VENV),.venv311)
BIN := $(VENV)/bin
PIP = $(@D)/bin/python -m pip install --quiet --quiet
# A file of tests stays in one process, as its fixtures are made once; the order is of `testpaths`.
PYTEST = python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# What depends on Python, the oracles that need torch, and one pass through the commands.
# Numbers of other detectors and effects of options need JAX alone: the first Python has seen them.
TESTS311 = tests/parity tests/e2e/test_commands.py tests/unit/test_imports.py tests/unit/config \
	tests/unit/io tests/unit/runtime --ignore-glob 'tests/parity/test_rival*' \
	--ignore tests/unit/config/test_effects.py
# Rooms and files whose unit tests compile or trace networks, or build the site.
SLOW = benchmarks converters denoisers docs encoders inference paradigms planning training \
	config/test_effects.py test_recipes.py

.PHONY: setup quickstart bench docs test test-first test-oracles oracles test-fast test-kills lint clean

setup: $(VENV)/.installed  ## a virtual environment with what running needs

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

ifneq ($(VENV311),$(VENV))
$(VENV311)/.python:
	$(PYTHON311) -m venv $(VENV311)
	touch $@
endif

%/.installed: %/.python requirements.txt pyproject.toml
	$(PIP) --upgrade pip
	$(PIP) --editable .
	touch $@

%/.installed-test: %/.installed requirements-test.txt
	$(PIP) --requirement requirements-test.txt
	touch $@

%/.installed-tpu: %/.installed-test requirements-tpu.txt
	$(PIP) --requirement requirements-tpu.txt
	touch $@

%/.installed-browser: %/.installed-tpu requirements-browser.txt
	$(PIP) --requirement requirements-browser.txt
	touch $@

%/.installed-docs: %/.installed requirements-docs.txt
	$(PIP) --requirement requirements-docs.txt
	touch $@

%/.installed-oracles: %/.installed-test requirements-oracles.txt requirements-oracles-nodeps.txt
	$(PIP) --requirement requirements-oracles.txt
	$(PIP) --no-deps --requirement requirements-oracles-nodeps.txt
	touch $@

.PRECIOUS: %/.installed %/.installed-test %/.installed-tpu %/.installed-oracles

quickstart: $(VENV)/.installed  ## train and evaluate on real photographs
	$(BIN)/python -m invad_jax.train --config configs/hazelnut.py
	$(BIN)/python -m invad_jax.eval --config configs/hazelnut.py

bench: $(VENV)/.installed  ## how fast the quickstart's detector is here: docs/performance.md
	$(BIN)/python -m invad_jax.benchmark --workdir runs/hazelnut

docs: $(VENV)/.installed-docs  ## the site, in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html

test: test-first $(if $(filter-out $(VENV),$(VENV311)),test-oracles)  ## all that this machine can run

test-first: $(VENV)/.installed-browser $(VENV)/.installed-docs $(if $(filter $(VENV),$(VENV311)),$(VENV)/.installed-oracles)
	$(BIN)/$(PYTEST)

test-oracles: $(if $(PYTHON311),$(VENV311)/.installed-oracles)  ## the part for Python 3.11
ifneq ($(PYTHON311),)
	$(VENV311)/bin/$(PYTEST) $(TESTS311)
else
	@echo "no Python 3.11 here: what asks torch is left out"
endif

oracles: $(if $(PYTHON311),$(if $(filter-out $(VENV),$(VENV311)),$(VENV311)/.installed-oracles))  ## their environment

test-fast: $(VENV)/.installed-test  ## what compiles no network: under 90 s
	$(BIN)/$(PYTEST) tests/unit $(SLOW:%=--ignore tests/unit/%)

test-kills: $(VENV)/.installed-test  ## docs/kills.md: a training killed 25 times, 10 in either bucket, each detector's once
	$(BIN)/$(PYTEST) -m long
	$(BIN)/python -m tests.multiprocess.kills
	$(BIN)/python -m tests.multiprocess.kills --kills 10 --bucket gs
	$(BIN)/python -m tests.multiprocess.kills --kills 10 --bucket s3
	$(BIN)/python -m tests.multiprocess.kills --kills 0 --bucket gs --faults 20
	$(BIN)/python -m tests.multiprocess.kills --kills 0 --bucket s3 --faults 20

lint: $(VENV)/.installed-test  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(VENV311) runs .pytest_cache
