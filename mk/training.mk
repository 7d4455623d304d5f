# Two thousand checkpoints and packed files with a changed structure: a quarter of an hour. Another FUZZ_SEED, others.
FUZZ_STATES ?= 2000
FUZZ_SEED ?= 0

.PHONY: fuzz-state
fuzz-state: $(VENV)/installed-test
	PYTHONPATH=tests:. $(BIN)/python -m fuzz_state --mutants $(FUZZ_STATES) --seed $(FUZZ_SEED) --keep build/fuzz_state
