"""Builds the wheels of a release, one for each machine, from the source distribution of this tree: `make wheels`.

    python tools/wheels.py [--out dist] [--machine x86_64 --machine aarch64 --machine armv7l]

On Debian 12 for x86_64, with a Python that has the packages build and ziglang. The other compilers are Debian packages, which
root gets installed here where they are missing. Every wheel is for any Python since 3.10 and any Linux since glibc 2.17.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
# By machine: the presets of the runtime and of the training kernels, and the compiler with the Debian package that it is in.
MACHINES = {
    "x86_64": ("linux-x86_64", "manylinux", "g++", "g++"),
    "aarch64": ("linux-arm64", None, "aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"),
    "armv7l": ("linux-armv7", None, "arm-linux-gnueabihf-g++", "g++-arm-linux-gnueabihf"),
}
# What the engine for browsers, which all wheels hold, is built with: by what shows that it is there.
BROWSER_PACKAGES = {"clang-19": "clang-19", "wasm-ld-19": "lld-19", "/usr/lib/wasm32-wasi/libc.a": "wasi-libc"}
WEB = "acdbit_keras/convert/runtime/web"
RUNTIME = "acdbit_keras/convert/runtime/libacdbit_runtime.so"
TRAINING = "acdbit_keras/training/libacdbit_training.so"


class WheelError(RuntimeError):
    """A wheel that was not built, or not as it should be."""


def install_compilers(machines):
    """Installs the Debian packages of the compilers that are missing.

    Raises:
        WheelError: some are missing, and this is not Debian or not root.
    """
    wanted = BROWSER_PACKAGES | {compiler: package for *_, compiler, package in map(MACHINES.get, machines)}
    missing = [package for name, package in wanted.items() if not (shutil.which(name) or os.path.isfile(name))]
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise WheelError(f"these wheels need Debian packages that root can install: apt-get install {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def source_distribution(folder):
    """The path of a source distribution of this tree, made in a folder."""
    _python("-m", "build", "--sdist", "--outdir", folder, ROOT)
    [path] = pathlib.Path(folder).glob("*.tar.gz")
    return path


def browser_engine(folder):
    """The path of the engine for browsers, acdbit.wasm, built in a folder."""
    command = ["sh", ROOT / WEB / "build.sh", folder]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if process.returncode:
        raise WheelError(f"the engine for browsers was not built: {process.stderr[-3000:]}")
    return pathlib.Path(folder) / "acdbit.wasm"


def build(source, engine, machine, out):
    """Builds the wheel of one machine.

    Args:
        source: a source distribution.
        engine: the engine for browsers, which goes along.
        machine: a key of `MACHINES`.
        out: folder for the wheel.

    Returns:
        pathlib.Path of the wheel.

    Raises:
        WheelError: a compiler failed, or the wheel is not for any Linux since glibc 2.17.
    """
    runtime, training, *_ = MACHINES[machine]
    environment = {**os.environ, "ACDBIT_PRESET": runtime, "ACDBIT_TRAINING_PRESET": training or ""}
    with tempfile.TemporaryDirectory() as scratch:
        # A tree of its own, so that nothing of another machine's build gets into the wheel.
        shutil.unpack_archive(source, scratch)
        [tree] = pathlib.Path(scratch).iterdir()
        shutil.copy(engine, tree / WEB)
        _python("-m", "build", "--wheel", "--outdir", scratch, tree, env=environment)
        [wheel] = pathlib.Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as content:
            names = content.namelist()
            reasons = [content.read(name).decode() for name in names if name.endswith("not_compiled.txt")]
        missing = {RUNTIME, *([TRAINING] if training else [])} - set(names)
        if missing:
            raise WheelError(
                f"the wheel for {machine} lacks {', '.join(sorted(missing))}: {' '.join(reasons) or 'no reason given'}"
            )
        if not wheel.name.endswith(f"-py3-none-manylinux_2_17_{machine}.whl"):
            raise WheelError(f"{wheel.name} is not for {machine} with any glibc since 2.17")
        pathlib.Path(out).mkdir(parents=True, exist_ok=True)
        return pathlib.Path(shutil.copy(wheel, out))


def _python(*arguments, env=None):
    # The environment's own python-zig, also where it is not activated.
    env = dict(env or os.environ)
    env["PATH"] = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    process = subprocess.run([sys.executable, *map(str, arguments)], env=env, capture_output=True, text=True)
    if process.returncode:
        raise WheelError(f"{' '.join(map(str, arguments))} failed:\n{(process.stdout + process.stderr)[-3000:]}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=ROOT / "dist", type=pathlib.Path, help="folder of the wheels (default: %(default)s)")
    parser.add_argument("--machine", action="append", choices=MACHINES, help="repeatable (default: all)")
    options = parser.parse_args(arguments)
    machines = options.machine or list(MACHINES)
    try:
        install_compilers(machines)
        with tempfile.TemporaryDirectory() as folder:
            source, engine = source_distribution(folder), browser_engine(folder)
            for machine in machines:
                wheel = build(source, engine, machine, options.out)
                print(f"{wheel}  {wheel.stat().st_size / 1e6:.2f} MB", flush=True)
    except (WheelError, subprocess.CalledProcessError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
