# Two commands: `make demo` and `make test`. Each makes .venv first, on a fresh machine too.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: demo test lint clean
demo: $(VENV)/.ready
	$(PY) diagnose.py

test: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m pytest

lint: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m mypy diagnose train eval scripts

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt 'setuptools>=80'
	$(PY) -m pip install --quiet --constraint constraints.txt torch
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
