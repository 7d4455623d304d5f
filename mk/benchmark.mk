# make benchmark: measure all that READMEs/performance.md shows of this processor, and write the page anew. Half an hour;
# the machine must have nothing else to do.
NETWORKS := lenet5_xnornet nin_xnornet nin_gc_xnornet vgg_small_xnornet resnet18_bireal alexnet_xnornet
BENCHMARK = $(BIN)/python tools/benchmark.py

.PHONY: benchmark
benchmark: $(VENV)/installed-bench
	$(BENCHMARK) --keep
	$(BENCHMARK) --kernels --keep
	$(BENCHMARK) $(addprefix --network ,$(NETWORKS)) --keep
	$(BENCHMARK) --sweep channels --keep
	$(BENCHMARK) --sweep kernel --keep
	$(BENCHMARK) --training nin_xnornet --training resnet18_xnornet --rounds 7 --keep
	$(BENCHMARK) --report

$(VENV)/installed-bench: $(VENV)/installed
	$(INSTALL) -e '.[bench]'
	touch $@
