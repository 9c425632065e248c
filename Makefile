# A new machine needs python3, python3-venv and make. `make demo` and `make test` install the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DIGITS := runs/digits-data

.DELETE_ON_ERROR:
.PHONY: demo test test-slow lint format bench bench-initialisation clean

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vgg_deploy needs Python 3.11 or later; this is %d.%d (set PYTHON=... to use another)" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

# The packages for the demo and for development. They are installed again when pyproject.toml changes.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,train]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	rm -rf demo $(DIGITS)
	@echo '== Train configuration A at an eighth of its width on scanned digits, crops of 64 pixels'
	$(BIN)/vgg-deploy train --arch A --data digits --out demo/run
	@echo '== Export it as FP32 and as FP16'
	$(BIN)/vgg-deploy export --weights demo/run/best.safetensors --dynamic -o demo/digits.onnx
	$(BIN)/vgg-deploy export --weights demo/run/best.safetensors --dynamic --fp16 --calibration $(DIGITS)/train -o demo/digits-fp16.onnx
	@echo '== Prove that both answer as PyTorch does'
	$(BIN)/vgg-deploy verify demo/digits.onnx demo/digits-fp16.onnx --reference demo/run/best.safetensors --images $(DIGITS)/val
	@echo '== Classify a folder of PNGs that training has not seen'
	$(BIN)/vgg-deploy infer $(DIGITS)/val --engine demo/digits-fp16.onnx --protocol center --check-folders --top 3 --csv - > demo/answers.csv
	@head -n 4 demo/answers.csv; echo "... (demo/answers.csv)"

# OMP_WAIT_POLICY: threads that spin while they wait make small networks several times slower on shared cores.
test: $(VENV)/.dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m 'not slow'

# Full-width networks, real data sets, and trainings that take minutes.
test-slow: $(VENV)/.dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m slow --durations=0

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Uses the network and photos in ../shared/data or $$VGG_DEPLOY_TEST_DATA, if they exist. To use others:
# make bench BENCH='--images DIR'.
bench: $(VENV)/.dev
	for table in single shapes multiscale protocols growth pipeline pairing; do $(BIN)/python -m benchmarks.$$table $(BENCH) || exit; done

# The paper's statements about initialisation. Takes eight more minutes.
bench-initialisation: $(VENV)/.dev
	$(BIN)/python -m benchmarks.initialisation

clean:
	rm -rf $(VENV) build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache
