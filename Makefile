# make demo: set up and run the main job.   make test: set up and run lint, types and tests.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONSAFEPATH := 1

.PHONY: demo test tools clean
demo: $(BIN)/.ready
	$(BIN)/trivet run flows/recipes/home.toml

test: $(BIN)/.ready-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

# torch first and pinned: asked for loosely, by whatever package comes first, it may be another build.
$(BIN)/.ready: pyproject.toml constraints.txt | tools
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(BIN)/.ready-dev: $(BIN)/.ready
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Trivet needs Python 3.11 or newer; '$(PYTHON)' is older or missing. Set PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot make virtual environments: install python3-venv."; exit 2; }
	@command -v g++ >/dev/null || { echo "g++ is missing (it compiles the FPGA leg's C simulation): install g++."; exit 2; }

clean:
	rm -rf .venv .trivet runs
