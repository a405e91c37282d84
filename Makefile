# make run: install, then hebbsearch demo.   make test: lint, types, tests.   make quick: unit tests.
PYTHON ?= python3
PORT ?= 8000
HOST ?= 127.0.0.1
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Threads that wait spin for some microseconds, then sleep, as training/build_index.py has it too.
export GOMP_SPINCOUNT ?= 1000
# What is compiled once need not be compiled again: for tests that is ten seconds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test quick test-cluster bench bench-scale reproduce-quick few-labels-quick lint lint-page house lock clean

run: .venv/installed
	@HEBBSEARCH_LOG="$${HEBBSEARCH_LOG:-text}" exec $(BIN)/hebbsearch \
		$(if $(ARTIFACT),serve "$(ARTIFACT)",demo artifacts/default) --host $(HOST) --port $(PORT)

# Two files of tests at a time: a core and about 2 GB of memory each. WITHIN is what .ci/run measures it with.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
test: .venv/developing lint
	$(WITHIN) $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST)

# What needs neither lint nor another process, server or browser, nor a second: while you write.
quick: .venv/developing
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -q --ignore=tests/service/page --ignore=tests/service/test_conformance.py -m "not process and not browser and not long and not slow and not gpu and not cluster" $(PYTEST)

# What needs a Milvus: it gets an environment of its own, as its old client wants an old setuptools, which sees
# this project's behind its own. On Linux; .venv-milvus takes 1 GB. PYTEST=tests/index/test_milvus.py for less.
test-cluster: .venv-milvus/installed
	.venv-milvus/bin/python -m pytest -m "cluster and not slow" $(PYTEST)

.venv-milvus/installed: .venv/developing
	$(PYTHON) -m venv .venv-milvus
	.venv-milvus/bin/python -m pip install --quiet --disable-pip-version-check \
		milvus==2.3.5 pymilvus==2.3.8 'setuptools<70' 'marshmallow<4'
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$(.venv-milvus/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hebbsearch.pth"
	@touch $@

lint: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The page's scripts and stylesheets. Needs node, which nothing else does. `make lint-page FIX=--write` mends what it can.
lint-page:
	npx --yes @biomejs/biome@2.6.8 check --error-on-warnings $(FIX)

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hebbsearch needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# What tests, lints, measures and draws, on top of it.
.venv/developing: requirements-dev.lock .venv/installed
	$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

# Every benchmark; about ten minutes, on a machine with nothing else to do.
bench: .venv/developing
	$(BIN)/python -m tests.benchmarks

# Millions of codes, uniform ones and, with CODES=ARTIFACT, some like its own; within an hour, and it goes on
# from its rows when it was interrupted.
bench-scale: .venv/developing
	$(BIN)/python -m tests.benchmarks.scale $(if $(CODES),--artifact "$(CODES)")

# The paper's protocol in minutes, on the embedded digits.
reproduce-quick: .venv/developing
	$(BIN)/python training/reproduce.py --table 2 --dataset digits --quick
	$(BIN)/python training/reproduce.py --table 3 --dataset digits --quick

# What few labels are worth, in minutes, on the embedded digits.
few-labels-quick: .venv/developing
	$(BIN)/python -m tests.benchmarks.few_labels --labels none,1%,10% --out $(or $(OUT),results)

# How large the code is, how its modules lie on each other, and how both were before the layout of today.
house:
	@$(PYTHON) -m tests.house --at dbd82bb

# The exact versions and the hashes of everything in pyproject.toml, for every platform: what runs, what
# develops, and what a cluster needs besides. Needs uv; with UPGRADE= only what pyproject.toml asks for changes.
UPGRADE ?= --upgrade
COMPILE = uv pip compile pyproject.toml --universal --python-version 3.11 $(UPGRADE) --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock' --quiet
lock:
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	mkdir -p build && sed -nE '/^(postgres|milvus) = /,/^]/s/^ *"([^"]+)".*/\1/p' pyproject.toml > build/cluster.in
	$(subst pyproject.toml,build/cluster.in,$(COMPILE)) --constraint requirements.lock --output-file requirements-cluster.lock

clean:
	rm -rf .venv .venv-milvus build *.egg-info .mypy_cache .pytest_cache .ruff_cache
