"""Builds the app or its library offline: `make apk`, `make aar`.

python android_demo/tools/build.py [--out FOLDER] apk | aar | models
"""

import argparse
import pathlib
import sys

import apk
import assets
import packages

HERE = pathlib.Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["apk", "aar", "models"], help="models: the app's assets alone, for Android Studio")
    parser.add_argument(
        "--out", type=pathlib.Path, default=HERE.parents[1] / "build" / "android", help="folder for what is built"
    )
    options = parser.parse_args()
    try:
        if options.what == "models":
            for path in assets.make(options.out / "assets" / "models"):
                print(path)
            return
        packages.install(packages.BUILD_PACKAGES)
        build = apk.Build(options.out, packages.Packages())
        path = getattr(build, options.what)()
    except packages.PackageError as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    if options.what == "apk":
        for part, count in apk.parts(path).items():
            print(f"  {count / 1e3:9.1f} kB  {part}")
        print(f"  signed by {' and '.join(sorted(apk.signatures(path)))}")


if __name__ == "__main__":
    main()
