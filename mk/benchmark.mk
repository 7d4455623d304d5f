# make benchmark: measure everything that READMEs/performance.md shows, and write it. Half an hour; the machine must
# have nothing else to do.
FIGURES := READMEs/performance
BENCHMARK = $(BIN)/python tools/benchmark.py

.PHONY: benchmark
benchmark: $(VENV)/installed-bench
	$(BENCHMARK) --json $(FIGURES)/shapes.json
	$(BENCHMARK) --kernels --json $(FIGURES)/kernels.json
	$(BENCHMARK) --sweep channels --json $(FIGURES)/channels.json
	$(BENCHMARK) --sweep kernel --json $(FIGURES)/kernel.json
	$(BENCHMARK) --report

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install -e '.[bench]'
	touch $@
