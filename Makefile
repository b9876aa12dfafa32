# Each command sets up what it needs: `make demo` makes a clip, `make course` makes your own copies of
# the notebooks and opens them, `make course-reset NN=05` makes a fresh copy of one,
# `make test` runs all tests and notebooks, `make outputs` runs the notebooks in place.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# two processes, each with files of its own
IN_TWO := -n 2 --dist loadfile
PROMPT ?= a large yellow star moving down and left on a navy background

.PHONY: demo course course-reset test outputs lint clean

demo: .venv/.installed
	$(BIN)/minisora sample "$(PROMPT)" --out clip.mp4

course: .venv/.installed-course
	$(BIN)/python notebooks/student.py
	$(BIN)/jupyter lab course/00_quickstart.ipynb

course-reset: .venv/.installed-course
	$(BIN)/python notebooks/student.py --reset $(NN)

test: .venv/.installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_TWO)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_TWO) --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

outputs: .venv/.installed-dev
	$(BIN)/python notebooks/run.py

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.installed: pyproject.toml constraints.txt
	@echo "setting up .venv; PyTorch is most of what is installed"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PIP) --editable .
	touch $@

.venv/.installed-course: .venv/.installed
	$(PIP) --editable ".[course]"
	touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs dist .pytest_cache .ruff_cache
