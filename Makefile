# Needs python3 (3.11 or later, with venv and pip), make and a C compiler; everything else goes into .venv.
.POSIX:

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
RUN = $(BIN)/python -m

help:
	@echo "make demo        run the decodability study on the bundled model; prints where its report is"
	@echo "make test        lint, types and tests"
	@echo "make format      mend layout and the lint that can be mended by itself"
	@echo "make slow        the tests that take minutes"
	@echo "make docs        build the documentation, tutorials included, into docs/_build/html"
	@echo "make bench       run the benchmarks"
	@echo "make train-mini  train the bundled model from nothing (about an hour on two cores; can be resumed)"
	@echo "make train-puzzle  train the model of several tasks: MINUTES=120 on two cores, 28 on a big GPU (can be resumed)"
	@echo "make dist        build the wheel and the sdist into dist/"
	@echo "make clean       remove what the above have made, .venv and build/ included"

# One stamp a kind of set-up: done once, and again when what is to be installed has changed. What development needs is
# installed in one go with the package, since pip looks at all of it anew each time.
$(VENV)/.made:
	@echo "Setting up $(VENV) (once; a few minutes) ..."
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e ".[viz,nnsight,zarr,dev,docs]"
	@touch $(VENV)/.installed $@

venv: $(VENV)/.installed

dev: $(VENV)/.installed-dev

demo: $(VENV)/.installed
	$(RUN) studies.decodability --model wan-maze-mini --problems 32 --rows 1000 --out build/demo

test: $(VENV)/.installed-dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) pytest -n 2 --dist worksteal

format: $(VENV)/.installed-dev
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

slow: $(VENV)/.installed-dev
	$(RUN) pytest -m slow

docs: $(VENV)/.installed-dev
	$(RUN) sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.installed-dev
	$(RUN) benchmarks

train-mini: $(VENV)/.installed
	$(RUN) interp.mini.train --out build/mini $$(command -v g++ >/dev/null && echo --compile)
	$(RUN) interp.mini.publish --checkpoint build/mini --out build/mini/wan-maze-mini

# MINUTES is the whole training, sessions that were interrupted counted in; RECIPE=wan-puzzle-mini-gpu where there is one.
MINUTES = 120
RECIPE = wan-puzzle-mini
train-puzzle: $(VENV)/.installed
	$(RUN) interp.mini.train --recipe $(RECIPE) --minutes $(MINUTES) --out build/puzzle $$(command -v g++ >/dev/null && echo --compile)
	$(RUN) interp.mini.publish --recipe $(RECIPE) --checkpoint build/puzzle --out build/puzzle/wan-puzzle-mini
	$(RUN) interp.mini.measure --model build/puzzle/wan-puzzle-mini

dist: $(VENV)/.installed-dev
	$(RUN) build

clean:
	rm -rf $(VENV) build dist docs/_build docs/tutorials docs/sg_execution_times.rst

.PHONY: help venv dev demo test format slow docs bench train-mini train-puzzle dist clean
