# The exported files in other runtimes than the newest onnxruntime, without our library, against PyTorch's answers. Each
# runtime has an environment of its own under build/runtimes; in JavaScript it needs npm.
RUNTIMES ?= 1.18 1.20 1.21 1.22 1.24 newest
RUNTIME_BUILD := build/runtimes
RUNTIME_FILES := $(RUNTIME_BUILD)/files

.PHONY: test-runtimes test-runtimes-node runtime-files $(RUNTIMES:%=test-runtimes-%)
test-runtimes: $(RUNTIMES:%=test-runtimes-%) test-runtimes-node

$(RUNTIMES:%=test-runtimes-%): test-runtimes-%: $(RUNTIME_BUILD)/%/installed runtime-files
	$(<D)/bin/python tests/runtimes/check.py $(RUNTIME_FILES)

# The scripts that npm leaves out fetch what only GPUs need.
test-runtimes-node: runtime-files
	@if command -v npm >/dev/null; then \
		npm install --ignore-scripts --no-audit --no-fund --prefix $(RUNTIME_BUILD)/node onnxruntime-node onnxruntime-web && \
		cd $(RUNTIME_BUILD)/node && \
		node $(CURDIR)/tests/runtimes/check.mjs $(CURDIR)/$(RUNTIME_FILES) onnxruntime-node && \
		node $(CURDIR)/tests/runtimes/check.mjs $(CURDIR)/$(RUNTIME_FILES) onnxruntime-web; \
	else \
		echo "skipped: the runtimes in JavaScript need npm"; \
	fi

runtime-files: $(VENV)/installed-test
	rm -rf $(RUNTIME_FILES)
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m runtimes.write $(RUNTIME_FILES)

# 1.18 is of before numpy 2.
$(RUNTIME_BUILD)/%/installed: $(VENV)/installed-test
	$(BIN)/python -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet \
		$(if $(filter newest,$*),onnxruntime,'onnxruntime==$*.*') $(if $(filter 1.18,$*),'numpy<2',numpy)
	touch $@
