"""Stands in for Android's C library on glibc, so that libraries for Android run on this machine as they are.

Makes libc.so, libm.so, libdl.so and liblog.so without versions of symbols: every function that a library misses jumps to glibc's
of that name, but those that bionic.c has itself.
"""

import pathlib
import re
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
# Bionic's is the one that POSIX describes.
_RENAMED = {"strerror_r": "__xpg_strerror_r"}
_JUMPS = {
    "x86_64": "jmp *slots+{offset}(%rip)",
    "aarch64": "adrp x16, slots\nadd x16, x16, :lo12:slots\nldr x16, [x16, #{offset}]\nbr x16",
}
_FILL = """
#include <dlfcn.h>
extern void* slots[] __attribute__((visibility("hidden")));
static const char* const names[] = {%s};
__attribute__((constructor(101))) static void fill(void) {
  void* libraries[] = {dlopen("libc.so.6", RTLD_NOW), dlopen("libm.so.6", RTLD_NOW)};
  for (unsigned i = 0; i < sizeof names / sizeof *names; ++i) {
    slots[i] = dlsym(libraries[0], names[i]);
    if (!slots[i]) slots[i] = dlsym(libraries[1], names[i]);
    if (!slots[i]) fprintf(stderr, "glibc has no %%s\\n", names[i]);
  }
}
"""


def build(compiler, cpu, folder, libraries):
    """Makes the four libraries.

    Args:
        compiler: a gcc for that processor.
        cpu: "x86_64" or "aarch64".
        folder: for the libraries.
        libraries: those for Android that are to run.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = (HERE / "bionic.c").read_text()
    if cpu != "aarch64":
        text = text.partition("#ifdef __aarch64__")[0]
    own = set(re.findall(r"^[a-z_]+[\w *]*?[ *](\w+)\(", text, re.MULTILINE))
    replaced = {name.removeprefix("bionic_") for name in own if name.startswith("bionic_")}
    missed = {name for library in libraries for name in _missed(library)}
    missed -= {"__sF"} | {name for name in missed if name.startswith(("acdbit_", "tflite_plugin"))}
    jumps = sorted(missed - own - replaced)
    lines = [".text"]
    for i, name in enumerate(jumps):
        lines += [f".globl {name}", f".type {name},%function", f"{name}:", *_JUMPS[cpu].format(offset=8 * i).splitlines()]
    for name in sorted(replaced & missed):
        lines += [f".globl {name}", f".set {name}, bionic_{name}"]
    lines += [".bss", ".balign 8", ".globl slots", ".hidden slots", "slots:", f".skip {8 * len(jumps)}", ".text"]
    source = folder / "libc.c"
    names = ",".join(f'"{_RENAMED.get(name, name)}"' for name in jumps)
    assembler = "".join(f'"{line}\\n"\n' for line in lines)
    source.write_text(f"{text}{_FILL % names}__asm__(\n{assembler});\n")
    _call(
        *(compiler, "-O1", "-fno-builtin", "-w", "-fPIC", "-shared", "-Wl,-soname,libc.so"),
        *("-o", folder / "libc.so", source, "-ldl", "-lpthread", "-lm"),
    )
    empty = folder / "empty.c"
    empty.write_text("")
    for name in ("libm", "libdl", "liblog"):
        _call(
            *(compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}.so", "-Wl,--no-as-needed"),
            *("-o", folder / f"{name}.so", empty, folder / "libc.so"),
        )


def _missed(library):
    said = subprocess.run(["nm", "-D", "--undefined-only", str(library)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in said.splitlines()}


def _call(*command):
    subprocess.run([str(part) for part in command], check=True)
