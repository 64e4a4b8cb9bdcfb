# make demo: set up and run the main job.   make test: set up and run lint, types, layers and tests.
# make unit · compile · rtl · servers · e2e: one tier of the tests.   make sweep: the long ones.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
export PYTHONSAFEPATH := 1

.PHONY: demo test lint unit compile rtl servers e2e sweep tools clean
demo: $(BIN)/.ready
	$(BIN)/trivet run flows/recipes/home.toml

test: lint
	$(BIN)/pytest -n $(JOBS) -m "not sweep"

lint: $(BIN)/.ready-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

unit compile sweep: $(BIN)/.ready-dev
	$(BIN)/pytest -n $(JOBS) -m $@

rtl servers e2e: $(BIN)/.ready-dev
	$(BIN)/pytest -m $@

# torch first and pinned: asked for loosely, by whatever package comes first, it may be another build.
$(BIN)/.ready: pyproject.toml constraints.txt | tools
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[fpga,gpu]'
	touch $@

$(BIN)/.ready-dev: $(BIN)/.ready
	$(BIN)/pip install -q -c constraints.txt -e '.[fpga,gpu,dev]'
	touch $@

tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Trivet needs Python 3.11 or newer; '$(PYTHON)' is older or missing. Set PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot make virtual environments: install python3-venv."; exit 2; }
	@command -v g++ >/dev/null || { echo "g++ is missing (it compiles the FPGA leg's C simulation): install g++."; exit 2; }

clean:
	rm -rf .venv .trivet runs
