# `make demo` and `make test` set up everything they need in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo demo-web test lint types imports docs bench clean

help:
	@echo "make demo   real Celery workers, no server: one file is broker and result backend; some are killed"
	@echo "make demo-web   the page over a lively example, at http://127.0.0.1:5556/"
	@echo "make test   every test that needs no server"
	@echo "make lint   ruff;  make types   mypy --strict;  make imports   the layers of the package"
	@echo "make docs   the documentation as a site, in build/site"
	@echo "make bench  the benchmarks, in minutes"

demo: $(VENV)/.for-demo
	$(BIN)/python examples/celery_demo.py

demo-web: $(VENV)/.for-demo-web
	$(BIN)/python examples/web_demo.py

test: $(VENV)/.for-dev
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile

lint: $(VENV)/.for-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.for-dev
	$(BIN)/mypy

imports: $(VENV)/.for-dev
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.for-docs
	$(BIN)/sphinx-build -q -W --keep-going -b html -c site -d build/doctrees . build/site

bench: $(VENV)/.for-bench
	$(BIN)/python -m benchmarks

$(VENV)/.for-demo: setup.cfg pyproject.toml | $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[celery]'
	@touch $@

$(VENV)/.for-demo-web: setup.cfg pyproject.toml | $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[celery,cli,web]'
	@touch $@

$(VENV)/.for-dev: setup.cfg pyproject.toml | $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.for-docs: setup.cfg pyproject.toml | $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

$(VENV)/.for-bench: setup.cfg pyproject.toml | $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

$(VENV):
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
