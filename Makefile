# Two commands set everything up by themselves: `make demo` makes a clip, `make test` runs all tests.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PROMPT ?= a large yellow star moving down and left on a navy background

.PHONY: demo test lint clean

demo: .venv/.installed
	$(BIN)/minisora sample "$(PROMPT)" --out clip.mp4

test: .venv/.installed-dev lint
	$(BIN)/python -m pytest

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.installed: pyproject.toml constraints.txt
	@echo "setting up .venv; PyTorch is most of what is installed"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PIP) --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs dist .pytest_cache .ruff_cache
