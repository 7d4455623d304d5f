# make quickstart   install into $(VENV), train, export and check a 1-bit network (1.5 minutes after the install)
# make test         install what the tests need, check the style, run all tests
# make test-native  the C++ library's own tests, under sanitizers, and under qemu for ARM
# make test-runtimes  exported files in old versions of onnxruntime and in JavaScript, without our library
# make fuzz-ort     10,000 damaged ONNX files through the library in onnxruntime, under AddressSanitizer
# make benchmark    measure the kernels against their peers and write READMEs/performance.md
# make lint-fix     repair the style
# make clean        remove everything that make created

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUICKSTART := runs/quickstart

.PHONY: quickstart test lint lint-fix clean

quickstart: $(VENV)/installed
	rm -rf $(QUICKSTART)
	$(BIN)/python trainer_exp.py --arch nin_gc_xnornet --dataset digits --log-path $(QUICKSTART) --export
	@echo
	@echo "See the curves:       $(BIN)/tensorboard --logdir runs"
	@echo "Binarize your own:    READMEs/quantize_README.md"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/installed-test
	$(BIN)/python tools/lint.py

lint-fix: $(VENV)/installed-test
	$(BIN)/python tools/lint.py --fix

$(VENV)/installed: setup.cfg pyproject.toml setup.py $(wildcard quantize/csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "xnorkit needs Python 3.10 or newer; name one with make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install -e '.[test,dev]'
	touch $@

include mk/native.mk
include mk/runtimes.mk
include mk/benchmark.mk

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .ruff_cache .hypothesis
