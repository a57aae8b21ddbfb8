"""Executed instructions of DeiT-S' binary product, 196 x 384 x 384, with NEON and with SVE, under emulation.

    python tests/arm64/count_sve.py INSTRUCTIONS_BENCH [--out FILE.json]

INSTRUCTIONS_BENCH is the runtime's, compiled for arm64 (`cmake --preset linux-arm64 -DACDBIT_TESTS=ON` in convert/runtime).
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE))

from userland import Userland

from acdbit_keras.files import write_beside

SOURCE = HERE.parents[1] / "acdbit_keras/convert/runtime/bench/sve_count.cc"
REGION = "xor_popcount 196x384x384"


def neon(program):
    """Instructions of the NEON kernel, as `userland.Counts`."""
    process, regions = Userland().count(program, stdout=subprocess.PIPE, text=True, check=True)
    tags = dict(reversed(line.split(" ", 1)) for line in process.stdout.splitlines())
    return regions[int(tags[REGION])]


def sve(bits):
    """The same of the SVE kernel with vectors of so many bits.

    Raises:
        RuntimeError: if its counts are wrong, or its vectors are not as long.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "sve_count"
        flags = ["-std=c++17", "-O3", "-march=armv8.2-a+sve", "-static"]
        subprocess.run(["aarch64-linux-gnu-g++", *flags, "-o", program, SOURCE], check=True)
        process, regions = Userland(cpu=f"sve{bits}").count(program, stdout=subprocess.PIPE, text=True)
    if process.returncode or process.stdout.strip() != str(bits):
        raise RuntimeError(f"the SVE kernel of {bits} bits ended with {process.returncode} and printed {process.stdout!r}")
    return regions[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", metavar="INSTRUCTIONS_BENCH")
    parser.add_argument("--out", help="also write the figures to this JSON file")
    options = parser.parse_args()
    Userland().setup()
    found = {"neon": neon(options.program), "sve128": sve(128), "sve256": sve(256)}
    rows = {name: {"instructions": counts.instructions, "simd": counts.simd} for name, counts in found.items()}
    print(json.dumps({REGION: rows}, indent=1))
    if options.out:
        write_beside(options.out, lambda path: path.write_text(json.dumps({REGION: rows}, indent=1) + "\n"))


if __name__ == "__main__":
    main()
