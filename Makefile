# make demo: set up and run the main job.   make test: set up and run lint, types, layers and tests.
# make unit · compile · rtl · servers · e2e: one tier of the tests.   make sweep: the long ones.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
export PYTHONSAFEPATH := 1

.PHONY: demo test runs others lint unit compile rtl servers e2e sweep cases long tools clean
demo: $(BIN)/.ready
	$(BIN)/trivet run flows/recipes/home.toml

# The product's runs on one core, everything else on the other: each starts real servers of its own.
test: lint
	@$(MAKE) -j2 --no-print-directory --output-sync=target runs others

runs: $(BIN)/.ready-dev
	$(BIN)/pytest -m "e2e and not long"

others: $(BIN)/.ready-dev
	$(BIN)/pytest -m "unit or compile or rtl or servers"

lint: $(BIN)/.ready-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

unit compile: $(BIN)/.ready-dev
	$(BIN)/pytest -n $(JOBS) --dist=loadfile -m $@

rtl servers e2e: $(BIN)/.ready-dev
	$(BIN)/pytest -m $@

# The long ones: many more cases, and the product's slow ways.
sweep: $(BIN)/.ready-dev
	@$(MAKE) -j2 --no-print-directory --output-sync=target cases long

cases: $(BIN)/.ready-dev
	$(BIN)/pytest -m sweep

long: $(BIN)/.ready-dev
	$(BIN)/pytest -m "e2e and long"

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
