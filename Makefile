# make reproduce   the whole series on the built-in data, from nothing but Python 3.11
# make test        every test, all notebooks included at a small scale
# make check       lint, format, types, contract of imports
# make explore     look at attention in a browser: any picture, any caption
# make notebooks   the series again, its outputs put into notebooks/ for committing
# make bench       how fast and how large scoring and training are, beside the loop of the family's public codes
# make bench-gpu  what a GPU brings, with the Python that runs torch there: make bench-gpu PYTHON=python DATA=Flickr8k
# make mutants    changes the core in some 3,000 small ways and lists those that no test notices (an hour): docs/mutants.md
# make fuzz      2,000 damaged files given to what reads them; lists those that end in a traceback (some minutes)
# make clean-runs  what the commands above made, apart from .venv
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/scenes.yaml

.PHONY: reproduce test check explore notebooks bench bench-gpu mutants fuzz clean-runs
.DELETE_ON_ERROR:

reproduce: $(VENV)/.installed
	$(VENV)/bin/bssan reproduce --config $(CONFIG)

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup

check: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

explore: $(VENV)/.installed
	$(VENV)/bin/bssan explore

notebooks: $(VENV)/.installed
	$(VENV)/bin/bssan reproduce --config configs/scenes.yaml --out runs/scenes --publish

bench: $(VENV)/.installed
	$(VENV)/bin/python -m benchmarks.engine --out benchmarks/results

bench-gpu:
	$(PYTHON) -m benchmarks.gpu --out benchmarks/results $(if $(DATA),--data $(DATA))

mutants: $(VENV)/.installed-test
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,mutants]'
	OMP_NUM_THREADS=1 $(VENV)/bin/mutmut run
	$(VENV)/bin/mutmut results

fuzz: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.hostile.fuzz

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
