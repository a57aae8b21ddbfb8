"""The wheels of a release: what each holds and needs. `make test` builds the 32-bit one in seconds, `make test-wheels` all."""

import pathlib
import re
import sys
import zipfile

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parents[1] / "tools")]

import wheels


def library(wheel, name=wheels.RUNTIME):
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name)


def test_a_wheel_is_for_any_python_since_3_10_and_asks_for_no_tensorflow(built, machine):
    with zipfile.ZipFile(built[machine]) as archive:
        [metadata] = (archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA"))
        [tags] = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/WHEEL"))
    assert f"Tag: py3-none-manylinux_2_17_{machine}\n" in tags
    assert "\nRequires-Python: >=3.10\n" in metadata
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)} <= set(
        re.findall("Classifier: (.*)", metadata)
    )
    required = re.findall("Requires-Dist: (.*)", metadata)
    assert {part for part in required if "extra" not in part} == {"numpy"}
    device = {part.partition(";")[0].strip() for part in required if 'extra == "device"' in part}
    assert device == {"ai-edge-litert>=2.3", "pillow"}


def test_the_libraries_of_a_wheel_are_for_its_machine_and_any_glibc_since_2_17(built, machine):
    numbers = {"x86_64": 62, "aarch64": 183, "armv7l": 40}
    names = [wheels.RUNTIME, *([wheels.TRAINING] if machine == "x86_64" else [])]
    for name in names:
        content = library(built[machine], name)
        assert int.from_bytes(content[18:20], "little") == numbers[machine]
        versions = {tuple(map(int, version.split(b"."))) for version in re.findall(rb"GLIBC_(\d+(?:\.\d+)+)", content)}
        assert versions and max(versions) <= (2, 17)
        assert b"libstdc++.so" not in content and b"libgcc_s.so" not in content


def test_a_wheel_holds_no_library_twice_and_nothing_of_another_machine_s_build(built, machine):
    with zipfile.ZipFile(built[machine]) as archive:
        names = archive.namelist()
    expected = {wheels.RUNTIME, *([wheels.TRAINING] if machine == "x86_64" else [])}
    assert {name for name in names if name.endswith(".so")} == expected
    assert not any(name.endswith("not_compiled.txt") for name in names)


def test_a_wheel_holds_the_page_and_its_engine(built, machine):
    names = ("index.html", "zoo.html", "acdbit.mjs", "float_twin.mjs", "acdbit.wasm")
    with zipfile.ZipFile(built[machine]) as archive:
        assert {f"{wheels.WEB}/{name}" for name in names} <= set(archive.namelist())


def test_a_compiler_that_fails_is_an_error_and_no_wheel_without_its_library(tmp_path, monkeypatch):
    source = wheels.source_distribution(tmp_path)
    engine = tmp_path / "acdbit.wasm"
    engine.write_bytes(b"")
    monkeypatch.setitem(wheels.MACHINES, "armv7l", ("linux-of-nowhere", None, "true", "none"))
    with pytest.raises(wheels.WheelError, match="the wheel for armv7l lacks .*libacdbit_runtime.so: .*linux-of-nowhere"):
        wheels.build(source, engine, "armv7l", tmp_path / "dist")
    assert not (tmp_path / "dist").exists()
