# Everything runs in .venv, which is made on first use and again when pyproject.toml changed.
#   make demo ARGS=--once        make test ARGS="-k ledger"        make PYTHON=python3.13 test
# `make test` is for every change: SQLite, the Valkey that pip installs, as many processes as there are
# cores. `make test-all` adds PostgreSQL, MariaDB, Redis, and the tests that take long.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DOCS := .venv/.installed-docs
DIST := .venv/.installed-dist

.DEFAULT_GOAL := help
.PHONY: help demo test test-all coverage matrix soak mutants bench docs dist test-wheel lint format clean

help:
	@echo "make demo | test | test-all | mutants | bench | docs | dist | lint | format | clean     (ARGS=... is passed to the first six)"
	@echo "make coverage   (which lines and branches of the package the quick tests run)"
	@echo "make test-wheel (some of the quick tests against the wheel that make dist builds)"
	@echo "make matrix     (the quick tests on every Python, Django and redis-py that we support)"
	@echo "make soak MINUTES=20 DATABASE=postgresql WHEN_DOWN=direct ORM=1 BASES=1 SEED=1     (by default a minute on each database)"

# exec: the program takes the shell's place, so that Ctrl-C and the exit code are its own.
demo: $(STAMP)
	@exec $(BIN)/python manage.py demo $(ARGS)

PARALLEL := -n auto --dist loadgroup
test: $(STAMP)
	@exec $(BIN)/python -m pytest $(PARALLEL) --tier quick $(ARGS)

test-all: $(STAMP)
	@exec $(BIN)/python -m pytest $(PARALLEL) --tier all $(ARGS)

# The lines and branches of the package that no test runs; ARGS=--tier=all runs all tests.
coverage: $(STAMP)
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(BIN)/python -m coverage run -m pytest $(PARALLEL) --tier quick $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

matrix:
	@exec .ci/matrix $(ARGS)

MINUTES ?= 1
DATABASE ?= sqlite postgresql mariadb
WHEN_DOWN ?= raise
soak: $(STAMP)
	@for database in $(DATABASE); do \
		$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --database $$database \
			--when-down $(WHEN_DOWN) $(if $(ORM),--orm) $(if $(BASES),--bases) $(if $(SEED),--seed $(SEED)) || exit $$?; \
	done

# Breaks safeguards, in a copy of the project: the tests have to notice. By default those of the code
# and the tests that differ from main; ARGS=--base=REVISION, ARGS=--all, or words of their names.
mutants: $(STAMP)
	@exec $(BIN)/python tests/mutation/run.py $(ARGS)

# Takes ten minutes and more for each database; ARGS=--co lists what there is, ARGS="-k sqlite" is some of it.
bench: $(STAMP)
	@exec $(BIN)/python -m pytest -q -s -k valkey tests/performance/measure.py tests/performance/transport.py tests/performance/ycsb.py $(ARGS)

# The site, in build/site. A dead link, or a page that the navigation does not name, is an error.
docs: $(DOCS)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)
	@echo "build/site/index.html"

# The sdist and the wheel, in dist/, checked as PyPI checks them.
dist: $(DIST)
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist .
	@$(BIN)/python -m twine --no-color check --strict dist/*

# Some of the quick tests, against the wheel in an environment of its own. It makes the wheel first.
test-wheel: dist
	@exec .ci/wheel $(PARALLEL) --tier quick tests/unit tests/systems tests/integration/test_admin.py $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/mypy
	@# The models have the migrations that they need.
	@DJANGO_SETTINGS_MODULE=tests.without_servers $(BIN)/python -m django makemigrations --check --dry-run \
		writebehind writebehind_meta

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	@rm -rf .venv .venv-newer .venv-matrix build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "Python 3.11 or newer is needed, and there is no '$(PYTHON)'. Name one: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1). Name another: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing into .venv (once, and when pyproject.toml changed) ..."
	@"$(PYTHON)" -m venv .venv
	@# pip knows --group since 25.1. Python 3.11 comes with an older one.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]' --group test --group lint
	@touch $@

$(DOCS): $(STAMP)
	@echo "Installing what makes the site into .venv (once, and when pyproject.toml changed) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	@touch $@

$(DIST): $(STAMP)
	@echo "Installing what builds a release into .venv (once, and when pyproject.toml changed) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dist
	@touch $@
