# The bit engine's own test program, under AddressSanitizer and UndefinedBehaviorSanitizer, and its NEON kernel
# under qemu-user where the cross compiler and qemu are installed (g++-aarch64-linux-gnu, qemu-user). That for browsers
# runs under Node.js, see web.mk.
CXX ?= g++
AARCH64_CXX ?= aarch64-linux-gnu-g++
QEMU_AARCH64 ?= qemu-aarch64
LIBRARY_SOURCES := $(sort $(wildcard quantize/csrc/*.cc quantize/csrc/*/*.cc))
LIBRARY_HEADERS := $(wildcard $(addprefix quantize/csrc/,*.h */*.h */*.inc))
NATIVE_SOURCES := $(LIBRARY_SOURCES) $(sort $(wildcard tests/native/*.cc))
NATIVE_HEADERS := $(LIBRARY_HEADERS) $(wildcard tests/native/*.h)
NATIVE_FLAGS := -std=c++17 -ffp-contract=off -fno-strict-aliasing -Wall -Wextra -Wpedantic -Wno-uninitialized \
	-Wno-maybe-uninitialized -Iquantize/csrc -pthread
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined

.PHONY: test-native test-native-host test-native-neon
test-native: test-native-host test-native-neon test-native-wasm

test-native-host: build/test_native
	build/test_native

build/test_native: $(NATIVE_SOURCES) $(NATIVE_HEADERS)
	mkdir -p build
	$(CXX) -O1 -g $(NATIVE_FLAGS) $(SANITIZERS) $(NATIVE_SOURCES) -o $@

test-native-neon:
	@if command -v $(AARCH64_CXX) >/dev/null && command -v $(QEMU_AARCH64) >/dev/null; then \
		$(MAKE) -f mk/native.mk build/test_native_neon build/test_native_neon_dot && \
		$(QEMU_AARCH64) build/test_native_neon && $(QEMU_AARCH64) -cpu max build/test_native_neon_dot; \
	else \
		echo "skipped: the NEON tests need $(AARCH64_CXX) and $(QEMU_AARCH64)"; \
	fi

build/test_native_neon: $(NATIVE_SOURCES) $(NATIVE_HEADERS)
	mkdir -p build
	$(AARCH64_CXX) -O2 -static $(NATIVE_FLAGS) $(NATIVE_SOURCES) -o $@

# The kernel as it is where the compiler may use the dot product, by default for Apple's processors.
build/test_native_neon_dot: $(NATIVE_SOURCES) $(NATIVE_HEADERS)
	mkdir -p build
	$(AARCH64_CXX) -O2 -static -march=armv8.2-a+dotprod $(NATIVE_FLAGS) $(NATIVE_SOURCES) -o $@

# Ten thousand damaged ONNX files through onnxruntime with the library under AddressSanitizer: a quarter of an hour.
FUZZ_MUTANTS ?= 10000

.PHONY: fuzz-ort
fuzz-ort: build/libxnorkit_asan.so $(VENV)/installed-test
	PYTHONPATH=tests $(BIN)/python -m fuzz_ort --library $< --mutants $(FUZZ_MUTANTS) --keep build/fuzz_ort

build/libxnorkit_asan.so: $(LIBRARY_SOURCES) $(LIBRARY_HEADERS)
	mkdir -p build
	$(CXX) -O1 -g -shared -fPIC $(NATIVE_FLAGS) $(SANITIZERS) $(LIBRARY_SOURCES) -o $@

# Two thousand random networks, prepared and converted; a tenth of so many with the comparison in convert, and a twentieth
# exported, or GRAPHS_EXPORTED: a quarter of an hour.
GRAPHS ?= 2000
GRAPHS_EXPORTED ?= 100

.PHONY: fuzz-graphs
fuzz-graphs: $(VENV)/installed-test
	OMP_NUM_THREADS=1 XNORKIT_GRAPHS=$(GRAPHS) XNORKIT_GRAPHS_EXPORTED=$(GRAPHS_EXPORTED) \
		$(BIN)/python -m pytest -q tests/test_random_graphs.py
