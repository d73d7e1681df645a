# The two commands are `make demo` and `make test`; each sets up everything it needs by itself.
PYTHON ?= python3
VENV_PYTHON = .venv/bin/python
# A worker a core, and one test at a time for each, as tests differ by minutes. One process where pytest-xdist is not
# installed (no network).
WORKERS = $(shell $(VENV_PYTHON) -c "import xdist" 2> /dev/null && echo "-n logical --maxprocesses 8 --dist load --maxschedchunk 1")

.PHONY: help setup test demo bench lint format clean gpu gpu-build gpu-test gpu-bench gpu-profile peers mutants coverage fuzz

help:
	@echo "make demo    train a small language model with torch's loss and with fastloss's"
	@echo "make test    all tests"
	@echo "make bench   benchmark against torch; table, plot and JSON"
	@echo "make lint    ruff, clang-format, mypy"
	@echo "make format  let ruff and clang-format write"
	@echo "make gpu     on a machine with a GPU: build, test, measure, profile; see docs/gpu.md"
	@echo "make mutants breaks the kernels, one thing at a time, and asks whether the tests notice (hours)"
	@echo "make fuzz    random calls of random losses, kernels against the reference (ten minutes; ARGS='--minutes 60')"
	@echo "make coverage  which lines of the CUDA kernels the tests on the emulator execute"
	@echo "make peers   download other libraries' wheels, to be measured beside fastloss"
	@echo "make setup   .venv with everything (the others call it)"
	@echo "make clean   remove what was built"

setup:
	@$(PYTHON) tools/setup_env.py

test: setup
	$(VENV_PYTHON) -m pytest $(WORKERS) $(ARGS)

demo: setup
	$(VENV_PYTHON) -m fastloss demo

bench: setup
	$(VENV_PYTHON) -m fastloss bench

lint: setup
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) tools/stubs.py --check
	$(VENV_PYTHON) tools/loss_pages.py --check
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs .venv/bin/clang-format --dry-run --Werror

format: setup
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs .venv/bin/clang-format -i

clean:
	rm -rf .venv build dist fastloss/*.so *.egg-info fastloss.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache

# No network is needed, and .venv is made on the way. `make gpu-test ARGS=--rehearse` is for a machine without a GPU.
gpu:
	$(PYTHON) -m tools.gpu all $(ARGS)

gpu-build gpu-test gpu-bench gpu-profile:
	$(PYTHON) -m tools.gpu $(@:gpu-%=%) $(ARGS)

peers:
	$(PYTHON) tools/peers.py

coverage: setup
	$(VENV_PYTHON) -m tools.coverage

fuzz: setup
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m tools.fuzz $(ARGS)

mutants: setup
	$(VENV_PYTHON) -m tools.mutants $(ARGS)
