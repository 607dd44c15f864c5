# make demo    install into .venv, then run the demo model on one rank and cut over two
# make test    install what tests need, and run them all; one file, or some tests of it:
#              make test ARGS="tests/generate/test_scheduler.py -k neighbours"
# make test-clients
#              install other people's clients, pinned, into .clients (1 GB), and run them against dure
# make test-arm64
#              test on emulated boards, with root: CONTRIBUTING.md; one board, or some tests of it:
#              make test-arm64 BOARDS=pi5 ARGS="-k chat"
# make page    build the page that `dure serve` shows to browsers; needs Node, 20.19 or newer
# make test-page
#              test the page's own parts
# make check   every linter, then the tests; clients that are not installed are skipped
# make lint    every linter
# make format  format the code and mend what the linter can
# make sdist, make wheel, make wheel-arm64
#              build what is given to others into dist/: the source, and wheels that need no compiler;
#              for arm64 they are cross-compiled: apt install gcc-aarch64-linux-gnu
# make test-packages
#              build them, install each into an empty environment, and the container if there is buildah:
#              tests/packages/run.py
# make docs    write docs/cli.md and other generated parts anew
# make site    write the documents as a site to build/site, which needs no network: open build/site/index.html
# make screenshots
#              take the pictures of docs/page.md anew: with chromium, while nothing else runs
# make recording
#              record the moving picture of the README anew, while nothing else runs
# make clean   remove .venv, .clients and what was built

PYTHON ?= python3
VENV := .venv
# files of tests that run at once, if all of them do
WORKERS ?= 2
BIN := $(VENV)/bin
# which of other people's clients: npm (Claude Code, Codex, ollama), and those of tests/clients/pinned
CLIENTS ?= npm aider langchain litellm llm lm-eval
SOURCES := pyproject.toml CMakeLists.txt $(wildcard native/*) $(shell find src -name '*.py')

# The page is built where there is Node, 20.19 or newer, and part of the wheel; all else works without it.
PAGE := src/dure/serve/page/static/index.html
PAGE_SOURCES := $(shell find page -type f -not -path 'page/node_modules/*')
NPM := $(shell command -v npm >/dev/null && node -e '\
    const [major, minor] = process.versions.node.split(".").map(Number); \
    process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)' && echo npm)

# llama.cpp's AMX kernels crash when some compilers build them: docs/decisions/0003-no-amx.md
CMAKE_ARGS += -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__
export CMAKE_ARGS

.PHONY: demo install sdist wheel wheel-arm64 test-packages page test test-page clients test-clients \
    test-arm64 check lint lint-page format docs site screenshots recording clean

demo: install
	$(BIN)/python examples/demo.py

install: $(VENV)/installed

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "dure needs Python 3.11 or newer: make PYTHON=/path/to/python3.12 demo"; exit 1; }
	@command -v c++ >/dev/null || \
	    { echo "dure needs a C and C++ compiler: apt install build-essential"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/installed: $(VENV)/python $(SOURCES) $(if $(NPM),$(PAGE_SOURCES))
	$(if $(NPM),-@$(MAKE) --no-print-directory page)
	@echo "Installing dure. The first time, llama.cpp is compiled for this CPU: 4 to 10 minutes."
	$(BIN)/python -m pip install --quiet .
	@touch $@

page: $(PAGE)

page/node_modules/installed: page/package.json page/package-lock.json
	npm ci --prefix page --loglevel=error
	@touch $@

$(PAGE): page/node_modules/installed $(PAGE_SOURCES)
	npm run build --prefix page --silent

test-page: page/node_modules/installed
	npm test --prefix page --silent

$(VENV)/installed-dev: $(VENV)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --group test --group lint --group docs
	@touch $@

test: install $(VENV)/installed-dev
	$(BIN)/python -m pytest $(or $(ARGS),$(if $(filter-out 1,$(WORKERS)),-n $(WORKERS)))

clients: $(CLIENTS:%=.clients/%/installed)

.clients/npm/installed: tests/clients/pinned/package.json
	mkdir -p $(@D) && cp $< $(@D)
	npm install --prefix $(@D) --no-audit --no-fund --no-package-lock --loglevel=error
	@touch $@

.clients/%/installed: tests/clients/pinned/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	@touch $@

test-clients: install $(VENV)/installed-dev clients
	$(BIN)/python -m pytest tests/clients

test-arm64: install $(VENV)/installed-dev
	$(BIN)/python -m tests.arm64.run $(BOARDS) $(if $(ARGS),--pytest $(ARGS))

check: lint $(if $(NPM),test-page) test

lint: install $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src tests bench docs examples
	$(BIN)/lint-imports
	$(if $(NPM),$(MAKE) --no-print-directory lint-page,@echo "The page is not linted: there is no Node, 20.19 or newer.")

lint-page: page/node_modules/installed
	npm run lint --prefix page --silent

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sdist: install $(VENV)/installed-dev $(PAGE)
	$(BIN)/python tools/packages/build.py sdist

wheel: install $(VENV)/installed-dev $(PAGE)
	$(BIN)/python tools/packages/build.py $(shell uname -m)

wheel-arm64: install $(VENV)/installed-dev $(PAGE)
	$(BIN)/python tools/packages/build.py aarch64

test-packages: install $(VENV)/installed-dev $(if $(NPM),$(PAGE))
	$(BIN)/python tests/packages/run.py

docs: install
	$(BIN)/typer dure.cli.app utils docs --name dure --title "The command line" --output docs/cli.md
	$(BIN)/python docs/generate.py
	PYTHONPATH=tools $(BIN)/python -m dashboard.write

site: docs $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

screenshots: install $(VENV)/installed-dev
	DURE_SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/page -k pictures

recording: install
	$(BIN)/python docs/recording.py

clean:
	rm -rf $(VENV) .clients build page/node_modules src/dure/serve/page/static
