# Two commands do everything on a fresh machine: `make run` and `make test`.
VENV ?= .venv
PY   ?= python3
BIN  := $(VENV)/bin
# One more than there are cores: many tests wait for a process or a quiet terminal.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# Some environments forbid keeping bytecode; then every worker would compile product and tests anew: nine seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup run test torture check format snapshots bench bench-blocks coverage clean

setup: $(VENV)/.ok

# Some distributions ship venv without pip inside; then the outer pip installs into the environment.
$(VENV)/.ok: pyproject.toml constraints.txt
	$(PY) -m venv $(VENV) || { rm -rf $(VENV); $(PY) -m venv --without-pip $(VENV); }
	$(PY) -m pip --python $(BIN)/python install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

run: setup
	$(BIN)/quarterdeck

test: setup
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

# Long forms of what the suite shows briefly, with figures; twelve minutes, half of them for a million racing opens.
torture: setup
	QUARTERDECK_RACE_ROUNDS=333334 $(BIN)/python -m pytest -q -s -n0 --timeout 3600 tests/torture \
		tests/governance/test_governance_races.py::test_fifty_thousand_swaps_lead_nowhere

# The block model's conformance suite holds at least 95 % of its branches.
coverage: setup
	$(BIN)/python -m pytest -q -n $(WORKERS) tests/conformance/blocks --cov=runtime.blocks --cov-branch \
		--cov-report=term:skip-covered --cov-fail-under=95

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

snapshots: setup
	$(BIN)/python -m pytest -q tests/console --snapshot-update

# Figures, not verdicts: takes minutes and about 2 GB of temporary space.
bench: setup
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/console_history.py
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/journal_figures.py
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/console_feed.py
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/storm_memory.py --items 200000 --telemetry 400000
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/watch_latency.py 500
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/sandbox_latency.py

# What a block costs, beside two other engines, which get an environment of their own.
bench-blocks: .venv-peers/.ok
	PYTHONPATH=. .venv-peers/bin/python tests/benchmarks/block_overhead.py

.venv-peers/.ok: pyproject.toml
	$(PY) -m venv .venv-peers || { rm -rf .venv-peers; $(PY) -m venv --without-pip .venv-peers; }
	$(PY) -m pip --python .venv-peers/bin/python install -q --disable-pip-version-check -e ".[peers]"
	@touch $@

clean:
	rm -rf $(VENV) .venv-peers dist build .mypy_cache .ruff_cache .hypothesis snapshot_report.html
