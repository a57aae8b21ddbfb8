#!/bin/sh
# Builds acdbit.wasm into a folder, from the engine's own sources: build.sh FOLDER. Needs clang-19, lld-19 and wasi-libc.
set -eu
runtime=$(cd "$(dirname "$0")/.." && pwd)
out=$1
mkdir -p "$out/objects"
for source in src/model.cc src/model_vectors.cc src/model_kernels_wasm.cc src/kernels_wasm.cc src/attention.cc src/block.cc web/memory.cc web/float_ops.cc; do
  clang-19 --target=wasm32-wasi --sysroot=/usr -isystem /usr/include/wasm32-wasi -std=c++17 -O3 -msimd128 -mbulk-memory \
    -ffp-contract=off -fno-exceptions -fno-rtti -fno-threadsafe-statics -fvisibility=hidden -Wall -Wextra \
    -I "$runtime/src" -I "$runtime/include" -c "$runtime/$source" -o "$out/objects/$(basename "$source" .cc).o"
done
wasm-ld-19 --no-entry --export-memory --gc-sections --strip-all -z stack-size=262144 \
  --export=acdbit_model_check --export=acdbit_model_info --export=acdbit_model_memory --export=acdbit_model_prepare \
  --export=acdbit_model_run "$out"/objects/*.o /usr/lib/wasm32-wasi/libc.a -o "$out/acdbit.wasm"
rm -r "$out/objects"
