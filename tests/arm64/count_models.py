"""Executed instructions of one inference on an arm64 processor, for `.tflite` files side by side; under emulation, so exact.

    python tests/arm64/count_models.py [--cpu NAME...] [--by-op] [--out FILE.json] LIBRARY FILE.tflite...

LIBRARY is the runtime compiled for arm64 (`cmake --preset linux-arm64` in convert/runtime). `--by-op` also counts every
node of the files with our ops alone; each such count includes one call of the interpreter.
"""

import argparse
import collections
import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE))

from userland import CPU, CPUS, Userland

from acdbit_keras.convert import flatbuffer
from acdbit_keras.files import write_beside


def count(userland, library, paths):
    """`userland.Counts` of one inference of each file."""
    process, counts = userland.count("python", HERE / "count_in_userland.py", library, *paths, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(process.stderr.strip().splitlines()[-1])
    return [counts[number] for number in range(1, len(paths) + 1)]


def by_op(userland, library, path):
    """Dict from op name to `(nodes, instructions)`, each node run alone."""
    model = flatbuffer.read(path)
    with tempfile.TemporaryDirectory() as folder:
        names, paths = [], []
        for node in flatbuffer.operators(model):
            names.append(node.name)
            paths.append(pathlib.Path(folder) / f"{node.index}.tflite")
            paths[-1].write_bytes(flatbuffer.pack(flatbuffer.single_operator(model, node.index)))
        totals = collections.defaultdict(lambda: [0, 0])
        for name, counts in zip(names, count(userland, library, paths)):
            totals[name][0] += 1
            totals[name][1] += counts.instructions
    return dict(sorted(totals.items(), key=lambda item: -item[1][1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library")
    parser.add_argument("files", nargs="+", metavar="FILE.tflite")
    parser.add_argument("--by-op", action="store_true", help="split the files with our ops by op")
    parser.add_argument("--out", help="also write the figures to this JSON file")
    parser.add_argument("--cpu", nargs="+", choices=list(CPUS), default=[CPU], help="processors (default: %(default)s)")
    options = parser.parse_args()
    Userland().setup()
    results = [{"cpu": cpu, "models": count_all(Userland(cpu=cpu), options)} for cpu in options.cpu]
    if options.out:
        value = results[0] if len(results) == 1 else {"cpus": results}
        write_beside(options.out, lambda temporary: temporary.write_text(json.dumps(value, indent=1) + "\n"))


def count_all(userland, options):
    """A row of figures for every file on one processor, printed as well."""
    rows = []
    print(userland.cpu)
    for path, counts in zip(options.files, count(userland, options.library, options.files)):
        row = {
            "file": pathlib.Path(path).name,
            "file_bytes": pathlib.Path(path).stat().st_size,
            "instructions": counts.instructions,
            "simd": counts.simd,
        }
        rows.append(row)
        print(
            f"{row['file']:32}{counts.instructions / 1e6:10.1f} M instructions, "
            f"{counts.instructions / rows[0]['instructions']:.3f} x the first"
        )
        ours = any(name.startswith(("Acd", "Lce")) for name in flatbuffer.op_counts(flatbuffer.read(path)))
        if options.by_op and ours:
            row["by_op"] = {
                name: {"nodes": n, "instructions": i} for name, (n, i) in by_op(userland, options.library, path).items()
            }
            for name, entry in row["by_op"].items():
                print(f"    {name:24}{entry['nodes']:4} nodes{entry['instructions'] / 1e6:10.2f} M")
    return rows


if __name__ == "__main__":
    main()
