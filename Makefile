# make reproduce   run the whole series on the built-in data; needs only Python 3.11 or newer
# make test        run all tests, and all notebooks at a small scale
# make check       lint, format, types, order of imports
# make explore     show attention in a browser, for any image and caption
# make notebooks   run the series and write the outputs into notebooks/ and figures/, for committing
# make site        the notebooks as stored, the documents and the API as a website: build/site/index.html
# make bench       measure time and memory of scoring and training, compared with a plain loop
# make bench-gpu   the same on a GPU; needs a Python with torch for CUDA: make bench-gpu PYTHON=python DATA=Flickr8k
# make mutants     change the core in about 3,400 small ways and list the changes that no test notices: docs/mutants.md
# make fuzz        read 2,000 damaged files and list those that end in a traceback; takes some minutes
# make clean-runs  delete runs/ and prepared/
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/scenes.yaml

.PHONY: reproduce test check explore notebooks site bench bench-gpu mutants fuzz clean-runs
.DELETE_ON_ERROR:

reproduce: $(VENV)/.installed
	$(VENV)/bin/bssan reproduce --config $(CONFIG)

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

explore: $(VENV)/.installed
	$(VENV)/bin/bssan explore

notebooks: $(VENV)/.installed
	$(VENV)/bin/bssan reproduce --config configs/scenes.yaml --out runs/scenes --publish

site: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(VENV)/bin/python -m sphinx -W -q -c docs/site . build/site

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

# Install once, and again after a change of pyproject.toml or constraints.txt.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "bssan needs Python 3.11 or newer, got " + sys.version.split()[0] + "; choose one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@
