# Mutants of core modules against their nearest tests, drawn at random, the same everywhere: what survives and is not known
# to compute the same (tests/mutation/equivalent.py) is shown. A minute to ten mutants; a cut run goes on where it was.
MUTANTS ?= 150
MUTANT_SEED ?= 0

.PHONY: mutation
mutation: $(VENV)/installed-test
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m mutation --mutants $(MUTANTS) --seed $(MUTANT_SEED)
