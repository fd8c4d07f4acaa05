# Two commands for users: `make demo` and `make test`. The rest is for developers.

PYTHON ?= python3
VENV := .venv
IN_VENV := . $(VENV)/bin/activate &&

.PHONY: help demo test lint format docs clean

help:
	@echo "make demo    train on generated tagged photos, label others, score the masks: demo/report.html"
	@echo "make test    run the whole test suite"
	@echo "make lint    check format, lint and types"
	@echo "make format  format the code"
	@echo "make docs    build the documentation site: site/index.html"
	@echo "make clean   remove the demo and caches (the environment in $(VENV) stays)"

demo: $(VENV)/.stamp
	$(IN_VENV) python -m jobs.demo --out demo

test: $(VENV)/.stamp $(VENV)/readers/.stamp
	@# The processes that tests start compile our modules once, whatever the caller's environment says.
	$(IN_VENV) PYTHONDONTWRITEBYTECODE= python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.stamp
	$(IN_VENV) ruff format --check .
	$(IN_VENV) ruff check .
	$(IN_VENV) mypy

format: $(VENV)/.stamp
	$(IN_VENV) ruff format .
	$(IN_VENV) ruff check --fix .

docs: $(VENV)/.docs-stamp
	$(IN_VENV) mkdocs build --config-file .mkdocs.yml --strict --quiet

clean:
	rm -rf demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "tagmask needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV) python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Tools that read what is exported. Their pins conflict with ours.
$(VENV)/readers/.stamp: tests/readers/requirements.txt | $(VENV)/.stamp
	$(PYTHON) -m venv $(VENV)/readers
	$(VENV)/readers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

$(VENV)/.docs-stamp: $(VENV)/.stamp
	$(IN_VENV) python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@
