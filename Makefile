# make reproduce   the whole series on the built-in data, from nothing but Python 3.11
# make test        every test, all notebooks included at a small scale
# make notebooks   the series again, its outputs put into notebooks/ for committing
# make clean-runs  what the commands above made, apart from .venv
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/scenes.yaml

.PHONY: reproduce test notebooks clean-runs
.DELETE_ON_ERROR:

reproduce: $(VENV)/.installed
	$(VENV)/bin/bssan reproduce --config $(CONFIG)

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

notebooks: $(VENV)/.installed
	$(VENV)/bin/bssan reproduce --config configs/scenes.yaml --out runs/scenes --publish

clean-runs:
	rm -rf runs prepared

# Installed once, and again when what is to be installed changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "bssan needs Python 3.11 or newer, got " + sys.version.split()[0] + "; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@
