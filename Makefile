# `make demo` and `make test` work on a fresh machine with Python 3.10 or later: they create .venv, install into it, and run.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

# One thread per test process: with more, the workers slow each other down. A file's tests in one worker: its fixtures are made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-quick test-slow lint site venv clean

demo: .venv/.for-demo
	@$(BIN)/distilect demo

# Side by side: alone, the type checker would leave a core idle for a minute.
test: venv
	@$(MAKE) --no-print-directory -j 2 lint test-quick

test-quick: venv
	@$(PYTEST)

# Hypothesis tests again, with more examples.
test-slow: venv
	@EXAMPLES=300 $(PYTEST) -m "slow or hypothesis"

lint: venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

# Documentation, into build/site.
site: venv
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "documentation: build/site/index.html"

venv: .venv/.installed

# Installs again only if the requirements have changed. Without compiling: half of the time would go into modules that nobody imports.
.venv/.for-demo: EXTRAS = demo
.venv/.installed: EXTRAS = demo,docs,dev
.venv/.for-demo .venv/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (minutes the first time)"
	@$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[$(EXTRAS)]'
	@touch .venv/.for-demo $@

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
