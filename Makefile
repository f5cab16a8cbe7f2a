# What a newcomer needs: `make demo`, `make page` and `make test`. Each does all of its set-up.
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$p" && break; done)
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Python 3.11 takes the versions that the tests ran with; others the newest that setup.cfg admits.
LOCK = $(if $(shell $(RUN) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo yes),--constraint requirements.lock)

# The second stack, with TensorFlow Addons: an environment of its own, and a Python that TensorFlow 2.15 has wheels for.
VENV_ADDONS ?= .venv-addons
PYTHON_ADDONS ?= $(shell for p in python3.11 python3.10 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' 2>/dev/null && echo "$$p" && break; done)
STAMP_ADDONS := $(VENV_ADDONS)/.installed
# What can differ between the stacks: all that builds, trains, saves, feeds or exports a Keras model. The rest
# (rendering, rankings, figures, files) knows no Keras; the killed process is about files too.
TESTS_ADDONS := tests/models tests/losses tests/training tests/adaptation tests/check tests/serving tests/data/test_pipeline.py \
	tests/evaluation/test_embedding.py tests/experiments/test_synthetic.py \
	--deselect tests/training/test_checkpoints.py::test_killed_while_saving
# Two processes, some 3 GB each at most; a file's tests share what they set up, so they stay together.
PYTEST := pytest --numprocesses 2 --dist loadfile
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help install lock demo page test test-all test-addons python-addons docs lint figures clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): setup.cfg pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "san_tf needs Python 3.10 to 3.13; none was found: install one, or name it with make PYTHON=..." >&2; exit 2; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet $(LOCK) --editable '.[test]'
	@touch $(STAMP)

install: $(STAMP)  ## Make the virtual environment and install the package with its test tools

lock: $(STAMP)  ## Write down the versions of the environment, after its tests have passed
	{ head -n 2 requirements.lock; $(RUN) -m pip freeze --exclude-editable; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

demo: $(STAMP)  ## From nothing to a trained, evaluated, exported encoder, on data made on the spot
	$(RUN) -m san_tf.experiments.synthetic

page: $(STAMP)  ## A web page with a gallery of rendered people, to search in
	$(RUN) -m san_tf serve-ui --demo

test: $(STAMP) lint  ## The tests that CI runs
	$(RUN) -m $(PYTEST)

test-all: $(STAMP) lint  ## The same and the slow ones
	$(RUN) -m $(PYTEST) -m 'slow or not slow'

$(STAMP_ADDONS): setup.cfg pyproject.toml
	@test -n "$(PYTHON_ADDONS)" || { echo "TensorFlow Addons needs Python 3.10 or 3.11; none was found: install one, or name it with make PYTHON_ADDONS=..." >&2; exit 2; }
	@test -x $(VENV_ADDONS)/bin/python || $(PYTHON_ADDONS) -m venv $(VENV_ADDONS)
	$(VENV_ADDONS)/bin/python -m pip install --quiet --upgrade pip
	$(VENV_ADDONS)/bin/python -m pip install --quiet --editable '.[addons,test]'
	@touch $(STAMP_ADDONS)

test-addons: $(STAMP_ADDONS)  ## The tests that Keras can fail, on TensorFlow 2.15 with TensorFlow Addons
	$(VENV_ADDONS)/bin/python -m $(PYTEST) $(TESTS_ADDONS)

python-addons:
	@echo "$(PYTHON_ADDONS)"

docs: $(STAMP)  ## The documentation as a site in build/site; a broken link fails
	$(RUN) -m pip install --quiet $(LOCK) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict

lint: $(STAMP)  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check --quiet .
	$(RUN) -m mypy

clean:  ## Remove the virtual environment, caches and runs
	rm -rf $(VENV) $(VENV_ADDONS) runs build ./*.egg-info .pytest_cache .mypy_cache .ruff_cache
