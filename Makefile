# Commands for everybody: `make demo` and `make test`; `make lint` for who changes something. All set up what they need in this
# folder first.
#
# .venv      TensorFlow backend: Larq, conversion, the command line
# .venv-lint formatters and linters, in the versions of .pre-commit-config.yaml
# .venv-jax  JAX backend, an environment of its own: larq needs numpy < 2, current jax numpy >= 2

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.10,$(shell command -v $(name) 2>/dev/null)))
PIP_FLAGS = --quiet --disable-pip-version-check

# What the shared libraries are compiled from; the package's installation does that.
RUNTIME = $(wildcard acdbit_keras/convert/runtime/CMakeLists.txt acdbit_keras/convert/runtime/src/* acdbit_keras/convert/runtime/include/*)
TRAINING = $(wildcard acdbit_keras/training/CMakeLists.txt acdbit_keras/training/src/*)

.PHONY: demo test test-tensorflow test-jax lint device mcu page clean

demo: .venv/ready
	.venv/bin/acdbit demo

# Two processes share the files of a suite, which keeps two cores busy.
PYTEST = python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test: test-jax test-tensorflow

# TensorFlow keeps what it traced until its process ends; one process for all files would take 12 GB. The last of the three groups
# is whatever the others leave.
LAYERS_AND_MODELS = tests/layers tests/models tests/quantizers
FILES_AND_BOARDS = tests/convert tests/arm64 tests/mcu tests/web tests/wheels
TENSORFLOW = TF_CPP_MIN_LOG_LEVEL=3 ACDBIT_JAX_PYTHON=$(CURDIR)/.venv-jax/bin/python .venv/bin/$(PYTEST)

test-tensorflow: .venv/ready .venv-jax/ready
	$(TENSORFLOW) $(FILES_AND_BOARDS)
	$(TENSORFLOW) $(LAYERS_AND_MODELS)
	$(TENSORFLOW) tests $(addprefix --ignore=,$(FILES_AND_BOARDS) $(LAYERS_AND_MODELS))

test-jax: .venv-jax/ready
	KERAS_BACKEND=jax .venv-jax/bin/$(PYTEST) -m any_backend tests

# Its tools live in this folder, too, so that a second run takes seconds.
lint: .venv-lint/ready
	PRE_COMMIT_HOME=$(CURDIR)/.venv-lint/cache .venv-lint/bin/pre-commit run --all-files --show-diff-on-failure

.venv-lint/ready: .pre-commit-config.yaml
	@test -n "$(PYTHON)" || { echo "make: Python 3.10, 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	"$(PYTHON)" -m venv .venv-lint
	.venv-lint/bin/pip install $(PIP_FLAGS) "pre-commit>=4"
	@touch $@

.venv/ready: setup.cfg pyproject.toml setup.py $(RUNTIME) $(TRAINING)
	$(call environment,.venv,tensorflow)

.venv-jax/ready: setup.cfg pyproject.toml setup.py $(RUNTIME) $(TRAINING)
	$(call environment,.venv-jax,jax)

# Modules are compiled when they are imported: those of all of TensorFlow, which pip would compile, take a minute.
define environment
@test -n "$(PYTHON)" || { echo "make: Python 3.10, 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
"$(PYTHON)" -m venv $(1)
$(1)/bin/pip install $(PIP_FLAGS) --upgrade pip
$(1)/bin/pip install $(PIP_FLAGS) --no-compile --editable ".[$(2),test]"
@touch $@
endef

# What a device installs and what its first answer costs, in an environment without anything that trains; results/device_start.json.
device: .venv/ready
	rm -rf .venv-device build/device && mkdir -p build/device
	.venv/bin/acdbit convert cifar10_vit_micro_acd_bit build/device/bits.tflite
	.venv/bin/acdbit convert cifar10_vit_micro_acd_bit build/device/float32.tflite --precision float32
	"$(PYTHON)" -m venv .venv-device
	.venv-device/bin/pip install $(PIP_FLAGS) ".[device]"
	cd build/device && ../../.venv-device/bin/python ../../tests/device_start.py . ../../results/device_start.json

# The wheels of a release, for x86_64, 64-bit and 32-bit ARM, in dist/. test-wheels builds them, installs them where they belong,
# natively and under emulation, and runs a model.
.PHONY: wheels test-wheels

wheels: .venv-wheels/ready
	.venv-wheels/bin/python tools/wheels.py

test-wheels: .venv/ready .venv-wheels/ready
	PATH=$(CURDIR)/.venv-wheels/bin:$$PATH ACDBIT_WHEELS=full TF_CPP_MIN_LOG_LEVEL=3 \
		$(CURDIR)/.venv/bin/python -m pytest tests/wheels tests/wheels/devices.py

.venv-wheels/ready: Makefile
	@test -n "$(PYTHON)" || { echo "make: Python 3.10, 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	"$(PYTHON)" -m venv .venv-wheels
	.venv-wheels/bin/pip install $(PIP_FLAGS) "build>=1" ziglang==0.17.1 auditwheel
	@touch $@

# The camera app (android_demo): the signed APK, the classifier as a library, and the models alone for Android Studio. The tests of
# tests/android in full: `make test` has a part of each, with made pictures and one version of Android.
.PHONY: apk aar android-models test-android

apk aar: .venv/ready
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python android_demo/tools/build.py $@

android-models: .venv/ready
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python android_demo/tools/build.py models

test-android: .venv/ready
	.venv/bin/acdbit data prepare cifar10
	ACDBIT_ANDROID=full TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m pytest tests/android

# The documentation site, build/site, from docs/, the docstrings and the results; its tools need no TensorFlow.
.PHONY: docs notebooks

docs: build/docs-venv/ready
	NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/mkdocs build --quiet --config-file website/mkdocs.yml
	@echo "python3 -m http.server --directory build/site"

build/docs-venv/ready: website/requirements.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.10, 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	"$(PYTHON)" -m venv build/docs-venv
	build/docs-venv/bin/pip install $(PIP_FLAGS) -r website/requirements.txt
	@touch $@

# The notebooks as they stand, each in a kernel of its own; writes their outputs. `make test` runs them with one epoch.
notebooks: .venv/ready
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python tests/notebooks/run_notebooks.py notebooks/*.ipynb

# The models of the zoo on emulated microcontrollers: classes, instructions, flash, arena and stack; results/mcu.json.
mcu: .venv/ready
	.venv/bin/python tests/mcu/measure.py --out results/mcu.json

# A page of the zoo, where each model classifies pictures and the camera, for any static server: build/page. Debian packages
# clang-19, lld-19 and wasi-libc build the engine, after which `acdbit serve` has it.
page: .venv/ready
	acdbit_keras/convert/runtime/web/build.sh acdbit_keras/convert/runtime/web
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/acdbit serve --out build/page
	@echo "acdbit serve build/page, or python3 -m http.server --directory build/page"

# What models take in a browser's engine, beside onnxruntime-web (packages of npm and those of `make page`); results/web.json.
.PHONY: web

web: .venv/ready
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python tests/web/measure.py --out results/web.json

clean:
	rm -rf .venv .venv-jax .venv-lint .venv-device .venv-wheels .android build/android build/docs-venv build/site dist runs .pytest_cache \
		.hypothesis *.egg-info

# For work on the runtime (acdbit_keras/convert/runtime): its tests, those in Python and those of the training kernels included,
# under the address, undefined-behaviour and thread sanitizers (packages g++, cmake, ninja-build, googletest), and its fuzzer (clang, libclang-rt-14-dev): make fuzz SECONDS=600.
# What the fuzzer finds goes to build/fuzz; inputs worth keeping go to acdbit_keras/convert/runtime/fuzz/corpus.
SECONDS ?= 60

.PHONY: sanitize fuzz fuzz-files

sanitize: .venv/ready
	cd acdbit_keras/convert/runtime && for preset in sanitize thread-sanitize; do \
		cmake --preset $$preset && cmake --build --preset $$preset && ctest --preset $$preset || exit 1; done
	ACDBIT_RUNTIME=$(CURDIR)/build/sanitize/libacdbit_runtime.so ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" TF_CPP_MIN_LOG_LEVEL=3 \
		.venv/bin/python -m pytest -k "not glibc" $(addprefix tests/convert/test_runtime_,delegate.py ops.py blocks.py convolution.py)
	cd acdbit_keras/training && cmake --preset sanitize && cmake --build --preset sanitize
	ACDBIT_TRAINING=$(CURDIR)/build/training-sanitize/libacdbit_training.so ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" TF_CPP_MIN_LOG_LEVEL=3 \
		.venv/bin/python -m pytest tests/test_training_kernels.py

fuzz:
	cd acdbit_keras/convert/runtime && cmake --preset fuzz && cmake --build --preset fuzz
	mkdir -p build/fuzz/corpus
	ASAN_OPTIONS=allocator_may_return_null=1:max_allocation_size_mb=1024 build/fuzz/delegate_fuzz -max_total_time=$(SECONDS) \
		-max_len=512 -rss_limit_mb=4096 -malloc_limit_mb=0 -artifact_prefix=build/fuzz/ build/fuzz/corpus acdbit_keras/convert/runtime/fuzz/corpus
	mkdir -p build/fuzz/flat_corpus
	build/fuzz/flat_fuzz -max_total_time=$(SECONDS) -print_final_stats=1 -max_len=16384 -artifact_prefix=build/fuzz/ build/fuzz/flat_corpus \
		acdbit_keras/convert/runtime/fuzz/flat_corpus

# Mutants of the zoo's files through Interpreter(..., untrusted=True): make fuzz-files MUTANTS=20000. What ends a process goes to
# build/fuzz-files, beside result.json.
MUTANTS ?= 20000
ZOO = digits_vit_nano_acd_bit cifar10_vit_micro_acd_bit cifar100_vit_micro_acd_bit

fuzz-files: .venv/ready
	mkdir -p build/fuzz-files
	for name in $(ZOO); do .venv/bin/acdbit convert $$name build/fuzz-files/$$name.tflite || exit 1; done
	.venv/bin/acdbit convert digits_vit_nano_acd_bit build/fuzz-files/digits_layers.tflite --layers
	.venv/bin/acdbit convert digits_vit_nano_acd_bit build/fuzz-files/digits_pixels.tflite --input uint8
	.venv/bin/python tests/fuzz_files.py $(foreach name,$(ZOO) digits_layers digits_pixels,build/fuzz-files/$(name).tflite) \
		--mutants $(MUTANTS) --out build/fuzz-files/result.json
