"""The packages that a machine with JAX lacks, as wheels for its Python and processor."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys

# Keras and what it imports beyond JAX and numpy: the distribution, and the module by which it is known to be there. Not h5py: it
# writes .keras files, which are made where the results go.
PACKAGES = {
    "keras": "keras",
    "absl-py": "absl",
    "namex": "namex",
    "optree": "optree",
    "packaging": "packaging",
    "rich": "rich",
    "markdown-it-py": "markdown_it",
    "mdurl": "mdurl",
    "pygments": "pygments",
    "typing-extensions": "typing_extensions",
}
MACHINES = ("x86_64", "aarch64")
_LINUX = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


def download(folder, python, machine):
    """Fetches the wheels with pip, Keras in the version that is installed here.

    Args:
        folder: where they are to be.
        python: version of the other machine's Python, "3.12".
        machine: one of `MACHINES`.

    Raises:
        ValueError: a version that is none, or a package that has no wheel for it.
    """
    if not re.fullmatch(r"3\.\d+", python):
        raise ValueError(f"python must be a version such as '3.12', not {python!r}")
    wanted = [f"keras=={importlib.metadata.version('keras')}", *(name for name in PACKAGES if name != "keras")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    command += [word for kind in _LINUX for word in ("--platform", f"{kind}_{machine}")]
    done = subprocess.run([*command, "--dest", str(folder), *wanted], capture_output=True, text=True)
    if done.returncode == 0:
        return
    missing = re.search(r"No matching distribution found for ([^\s(]+)", done.stderr)
    if missing:
        raise ValueError(f"there is no wheel of {missing[1]} for Python {python} on {machine}; choose another --python")
    said = [line for line in done.stderr.splitlines() if line.strip()]
    raise ValueError(f"pip cannot download the wheels for Python {python}: {said[-1] if said else 'it gave no reason'}")


def name_of(wheel):
    """The distribution that a wheel file holds, as `PACKAGES` writes it."""
    return pathlib.Path(wheel).name.partition("-")[0].replace("_", "-").lower()
