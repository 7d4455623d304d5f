# Our kernels for browsers: quantize/csrc in WebAssembly, of which tools/web/page/ has a copy, so that whoever writes a
# page needs no compiler. make web-kernels makes it anew, after a change of what it is made of: tests/test_web_kernels.py
# tells. Emscripten 3.1.6 with its node-acorn, as Debian 12 has them, or a later one.
EMXX ?= em++
# Where Debian keeps acorn, for a Node.js of another origin.
EMXX_RUN := NODE_PATH=$${NODE_PATH:-/usr/share/nodejs} $(EMXX)
WASM_FLAGS := $(filter-out -pthread -Wno-maybe-uninitialized,$(NATIVE_FLAGS)) -msimd128
WEB_SOURCES := $(sort $(wildcard quantize/csrc/*.cc quantize/csrc/conv/*.cc)) \
	quantize/csrc/arch/scalar.cc quantize/csrc/arch/wasm.cc
WEB_HEADERS := $(sort $(wildcard quantize/csrc/*.h quantize/csrc/conv/*.h)) \
	$(addprefix quantize/csrc/arch/,microkernels.h nibbles.inc portable.inc)
WEB_EXPORTS := xk_conv xk_conv_float xk_max_pool xk_average_pool xk_output_size xk_weights_size xk_weights_pack xk_last_error \
	xk_kernel_count xk_kernel_name malloc free
comma := ,
empty :=
space := $(empty) $(empty)
WEB_FLAGS := -O3 $(WASM_FLAGS) -fwasm-exceptions --no-entry -sSTANDALONE_WASM -sALLOW_MEMORY_GROWTH \
	-sEXPORTED_FUNCTIONS=$(subst $(space),$(comma),$(addprefix _,$(WEB_EXPORTS)))

.PHONY: web-kernels web-sources test-native-wasm
web-kernels:
	mkdir -p build
	$(EMXX_RUN) $(WEB_FLAGS) $(WEB_SOURCES) -o build/kernels.wasm
	install -m 644 build/kernels.wasm tools/web/page/kernels.wasm
	$(MAKE) --no-print-directory -s web-sources > tools/web/kernels.sources

# A hash of all that the module is made of.
web-sources:
	@{ echo '$(WEB_FLAGS)'; cat $(WEB_SOURCES) $(WEB_HEADERS); } | sha256sum | cut -d' ' -f1

# The library's test program under Node.js. With threads, Emscripten 3.1.6 has exceptions of JavaScript alone.
test-native-wasm:
	@if command -v $(EMXX) >/dev/null && command -v node >/dev/null; then \
		$(MAKE) build/test_native_wasm.js && node build/test_native_wasm.js; \
	else \
		echo "skipped: the tests in WebAssembly need $(EMXX) and node"; \
	fi

build/test_native_wasm.js: $(NATIVE_SOURCES) $(NATIVE_HEADERS)
	mkdir -p build
	$(EMXX_RUN) -O1 $(WASM_FLAGS) -fexceptions -pthread $(NATIVE_SOURCES) \
		-sPROXY_TO_PTHREAD -sEXIT_RUNTIME -sINITIAL_MEMORY=512MB -sSINGLE_FILE -o $@
