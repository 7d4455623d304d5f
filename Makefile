# make quickstart     install into $(VENV), train, export and check a 1-bit network (1.5 minutes after the install)
# make test           install what the tests need, check style and types, run all tests
# make docs           the guides, the notebooks and a reference as a site, build/site
# make test-docs      that it builds without a warning, every link in it, and the notebooks, run
# make notebooks      run the notebooks and keep their outputs
# make test-triton    of these, the Triton kernels' through Triton's interpreter
# make test-native    the C++ library's own tests, under sanitizers, under qemu for ARM, and under Node.js
# make test-runtimes  exported files in old versions of onnxruntime and in JavaScript, without our library
# make web-kernels    our kernels in WebAssembly, for tools/export_web.py (needs emscripten)
# make fuzz-ort       10,000 damaged ONNX files through the library in onnxruntime, under AddressSanitizer
# make fuzz-graphs    2,000 random networks, converted and exported
# make mutation       150 mutants of core modules, each against its nearest tests
# make fuzz-state     2,000 checkpoints with a changed structure, opened in every way that files are
# make benchmark      measure the kernels against their peers and write READMEs/performance.md
# make test-versions  the core of the tests with other versions of the dependencies, from the lowest to the newest
# make constraints    take the newest versions into constraints.txt
# make lint-fix       repair the style
# make clean          remove everything that make created

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUICKSTART := runs/quickstart
# Versions that are known to work together; `make CONSTRAINTS= test` takes the newest instead.
CONSTRAINTS ?= constraints.txt
INSTALLED_FROM := setup.cfg pyproject.toml setup.py $(CONSTRAINTS) $(wildcard quantize/csrc/* quantize/csrc/*/*)
INSTALL = $(BIN)/python -m pip install $(addprefix -c ,$(CONSTRAINTS))
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
# Triton learns of its interpreter when it is imported, so its kernels' tests have processes of their own.
PYTEST_TRITON = CUDA_VISIBLE_DEVICES= TRITON_INTERPRET=1 XNORKIT_KERNEL=triton $(PYTEST) -m triton $(TRITON_TESTS)
TRITON_TESTS := tests/test_triton_kernels.py tests/test_kept_bits.py

.PHONY: quickstart test test-suite test-triton lint lint-fix clean

quickstart: $(VENV)/installed
	rm -rf $(QUICKSTART)
	$(BIN)/python trainer_exp.py --arch nin_gc_xnornet --dataset digits --log-path $(QUICKSTART) --export
	@echo
	@echo "See the curves:       $(BIN)/tensorboard --logdir runs"
	@echo "Binarize your own:    READMEs/quantize_README.md"

test: lint test-suite test-triton

test-suite: $(VENV)/installed-test
	$(PYTEST)

test-triton: $(VENV)/installed-test
	$(PYTEST_TRITON)

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

lint-fix: $(VENV)/installed-test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "xnorkit needs Python 3.10 or newer; name one with make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip

$(VENV)/installed: $(INSTALLED_FROM) | $(VENV)/bin/pip
	$(INSTALL) -e '.[all]'
	touch $@

$(VENV)/installed-test: $(INSTALLED_FROM) | $(VENV)/bin/pip
	$(INSTALL) -e '.[test,dev]'
	touch $(VENV)/installed $@

include mk/native.mk
include mk/docs.mk
include mk/web.mk
include mk/versions.mk
include mk/runtimes.mk
include mk/benchmark.mk
include mk/training.mk
include mk/mutation.mk

clean:
	rm -rf $(VENV) runs build .cache *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
