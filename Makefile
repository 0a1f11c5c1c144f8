# Everything a person needs, with nothing on the machine but Python 3.11+ and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=

.PHONY: demo test test-gpu soak mutants upstream lint format bench bench-keep budget docs install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: install  ## the photo pipeline on three simulated machines; ARGS='--photos DIR --out DIR'
	$(BIN)/gpubroker demo $(ARGS)

TOGETHER ?= 2
test: install  ## everything, on embedded real servers: so many files TOGETHER, each with a server of its own; ARGS='-k name'
	$(BIN)/python -m pytest -n $(TOGETHER) --dist loadfile $(ARGS)

MINUTES ?= 10
soak: install  ## a model beside the scripts; load and faults, then RQ jobs and kills, every committed state checked; MINUTES=10
	GPUBROKER_PROOF_EXAMPLES=$$(( $(MINUTES) * 30 )) $(BIN)/python -m pytest -q --timeout 0 tests/proof/test_state_machine.py
	$(BIN)/python -m tests.proof.soak --minutes $(MINUTES) $(ARGS)
	$(BIN)/python -m tests.proof.rq_soak --jobs $$(( $(MINUTES) * 200 )) --kills $$(( $(MINUTES) * 20 ))

mutants: install  ## bugs on purpose, one at a time: the suite must notice each
	$(BIN)/python -m tests.proof.mutants $(ARGS)

upstream: install  ## RQ's own tests, with its workers and with ours in their places; wants port 6379
	$(BIN)/python -m tests.upstream $(ARGS)

test-gpu: install  ## the PyTorch path beside the CPU's, on the card if there is one; needs `pip install torch`
	$(BIN)/python -m pytest --override-ini=addopts=-ra tests/gpu $(ARGS)

lint: install  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## every benchmark, quick, ten minutes in all, and what is met; ARGS='--only floor', '--long', '--data DIR' (the trace of openb)
	$(BIN)/python -m benchmarks $(ARGS)

bench-keep: install  ## what the benchmarks wrote becomes the results page's; ARGS='--only floor'
	$(BIN)/python -m benchmarks.keep $(ARGS)

budget: install  ## what each operation makes the server do becomes what the guard allows
	$(BIN)/python -m tests.bench.budget --write $(ARGS)

docs: install  ## the documentation, into build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
