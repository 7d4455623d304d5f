# make benchmark: measure everything that READMEs/performance.md shows, and write it. Half an hour; the machine must
# have nothing else to do.
FIGURES := READMEs/performance
NETWORKS := lenet5_xnornet nin_xnornet nin_gc_xnornet vgg_small_xnornet resnet18_bireal alexnet_xnornet
BENCHMARK = $(BIN)/python tools/benchmark.py

.PHONY: benchmark
benchmark: $(VENV)/installed-bench
	$(BENCHMARK) --json $(FIGURES)/shapes.json
	$(BENCHMARK) --kernels --json $(FIGURES)/kernels.json
	$(BENCHMARK) $(addprefix --network ,$(NETWORKS)) --json $(FIGURES)/networks.json
	$(BENCHMARK) --sweep channels --json $(FIGURES)/channels.json
	$(BENCHMARK) --sweep kernel --json $(FIGURES)/kernel.json
	$(BENCHMARK) --training nin_xnornet --training resnet18_xnornet --rounds 7 --json $(FIGURES)/training.json
	$(BENCHMARK) --report

$(VENV)/installed-bench: $(VENV)/installed
	$(INSTALL) -e '.[bench]'
	touch $@
