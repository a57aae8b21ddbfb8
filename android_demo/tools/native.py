"""The runtime and its Java door for Android, compiled by the distribution's clang and lld.

An NDK brings bionic's headers, libraries to link against, and clang's own runtime. Here the headers are a page of declarations
(bare/include), the libraries are empty functions of the right names, of which only the names are used, and the one function of
clang's runtime that is missed is bare/emutls.c. The result needs libc and libm and nothing else.
"""

import os
import pathlib
import shutil

from packages import call

HERE = pathlib.Path(__file__).resolve().parent
JNI = HERE.parent / "jni"
CPUS = {"arm64-v8a": "aarch64", "x86_64": "x86_64"}
LIBRARIES = ("libacdbit_runtime.so", "libacdbit_jni.so")

# What the runtime may call; a function that is not among these fails to link.
BIONIC = {
    "libc": """
        malloc calloc realloc free posix_memalign memcpy memmove memset memcmp strlen strcmp strncmp strcpy strncpy strcat strchr
        strrchr strstr getenv strtol abort snprintf vsnprintf fprintf stderr pthread_create pthread_join pthread_detach
        pthread_once pthread_atfork pthread_key_create pthread_getspecific pthread_setspecific pthread_mutex_init
        pthread_mutex_destroy pthread_mutex_lock pthread_mutex_trylock pthread_mutex_unlock pthread_cond_init
        pthread_cond_destroy pthread_cond_wait pthread_cond_signal pthread_cond_broadcast sched_getaffinity clock_gettime
    """,
    "libm": """
        fabs fabsf exp expf exp2f log logf pow powf sqrt sqrtf floor floorf ceilf round roundf rint rintf nearbyint nearbyintf
        lrintf fmaxf fminf fma fmaf copysign copysignf ldexp ldexpf erf erff tanh tanhf
    """,
}


def build(abi, folder):
    """Compiles both libraries.

    Args:
        abi: a key of `CPUS`.
        folder: for the build.

    Returns:
        List of their paths.

    Raises:
        PackageError: the compiler failed.
    """
    cpu, folder = CPUS[abi], pathlib.Path(folder)
    stubs = _stubs(cpu, folder / "stubs")
    builtins = []
    if cpu == "x86_64":
        # Which instructions a processor has, clang asks its own library.
        builtins = [call("clang", "-print-resource-dir").strip() + "/lib/linux/libclang_rt.builtins-x86_64.a"]
    libraries = [stubs / "emutls.o", *builtins, f"-L{stubs}", "-lc", "-lm"]
    environment = {
        **os.environ,
        "ACDBIT_BARE_CPU": cpu,
        "ACDBIT_BARE_JAVA": str(_java() / "include"),
        "ACDBIT_BARE_LIBRARIES": " ".join(map(str, libraries)),
    }
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={HERE / 'bare' / 'bare.cmake'}"
    configure = ["cmake", "-S", JNI, "-B", folder / "build", "-DCMAKE_BUILD_TYPE=Release", "-Wno-dev", toolchain]
    call(*configure, env=environment)
    call("cmake", "--build", folder / "build", "--parallel", str(os.cpu_count()), env=environment)
    return [next((folder / "build").rglob(name)) for name in LIBRARIES]


def _stubs(cpu, folder):
    """Libraries to link against."""
    folder.mkdir(parents=True, exist_ok=True)
    compile_ = ["clang", f"--target={cpu}-linux-android24", "-c", "-w", "-fPIC", "-ffreestanding"]
    for library, names in BIONIC.items():
        source = folder / f"{library}.c"
        source.write_text("".join(f"void {name}(void) {{}}\n" for name in names.split()))
        call(*compile_, "-fno-builtin", "-o", source.with_suffix(".o"), source)
        emulation = {"aarch64": "aarch64linux", "x86_64": "elf_x86_64"}[cpu]
        call(
            *("ld.lld", "-m", emulation, "-shared", "-soname", f"{library}.so"),
            *("-o", source.with_suffix(".so"), source.with_suffix(".o")),
        )
    call(*compile_, "-O2", "-isystem", HERE / "bare" / "include", "-o", folder / "emutls.o", HERE / "bare" / "emutls.c")
    return folder


def _java():
    """The home of the Java compiler, whose jni.h has the same types as Android's."""
    return pathlib.Path(shutil.which("javac")).resolve().parents[1]
