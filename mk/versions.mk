# Versions of the dependencies. make test-versions: the core of the tests, each time in an environment that is made for
# it, with the lowest versions that setup.cfg allows, with torch 2.14, and with the newest of everything.
VERSIONS ?= lowest torch-2.14 newest

.PHONY: test-versions test-core constraints
test-versions: $(VERSIONS:%=test-versions-%)

test-versions-%: build/versions/%.txt
	rm -rf build/versions/$*
	$(MAKE) VENV=build/versions/$* CONSTRAINTS=$< test-core
	rm -rf build/versions/$*

test-core: $(VENV)/installed-test
	$(BIN)/python -m pip freeze --exclude-editable
	$(PYTEST) -m core
	$(PYTEST_TRITON)

# Each requirement of setup.cfg names its lowest version.
build/versions/lowest.txt: setup.cfg
	mkdir -p $(@D)
	sed -n 's/^ \+\([A-Za-z_-]\+\)>=/\1==/p' $< | sort -u > $@

build/versions/torch-%.txt:
	mkdir -p $(@D)
	echo 'torch==$*.*' > $@

build/versions/newest.txt:
	mkdir -p $(@D)
	: > $@

constraints:
	rm -rf build/versions/constraints
	$(MAKE) VENV=build/versions/constraints CONSTRAINTS= build/versions/constraints/installed-test \
		build/versions/constraints/installed-docs
	build/versions/constraints/bin/python tools/constraints.py > build/versions/constraints.txt
	mv build/versions/constraints.txt constraints.txt
	rm -rf build/versions/constraints
