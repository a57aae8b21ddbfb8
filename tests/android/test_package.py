"""What is in the APK, the AAR and the resources: signatures, libraries, permissions, API, strings, contrast."""

import itertools
import re
import struct
import subprocess
import zipfile
from xml.etree import ElementTree

import elf
import harness
import pytest
from harness import apk, native, packages

ANDROID = "{http://schemas.android.com/apk/res/android}"
RESOURCES = harness.DEMO / "app" / "src" / "main" / "res"


def test_it_is_signed_by_the_second_and_the_third_scheme_and_a_change_of_a_byte_is_found(signed, tmp_path):
    assert apk.signatures(signed) == {"v2", "v3"}
    changed = bytearray(signed.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed.apk").write_bytes(changed)
    with pytest.raises(packages.PackageError, match="apksigner failed"):
        apk.signatures(tmp_path / "changed.apk")


def test_its_parts_add_up_to_its_size(signed):
    parts = apk.parts(signed)
    assert sum(parts.values()) == signed.stat().st_size
    assert parts["classes"] < 200_000 and parts["arm64-v8a: runtime and JNI"] < 1_000_000


def test_what_android_maps_lies_stored_at_the_start_of_a_page(signed):
    with zipfile.ZipFile(signed) as archive, signed.open("rb") as file:
        mapped = [entry for entry in archive.infolist() if entry.filename.endswith((".so", ".tflite", "resources.arsc"))]
        assert sum(entry.filename.endswith(".so") for entry in mapped) == 6
        for entry in mapped:
            file.seek(entry.header_offset + 26)
            name, extra = struct.unpack("<HH", file.read(4))
            begins = entry.header_offset + 30 + name + extra
            library = entry.filename.endswith(".so")
            if library or entry.filename.endswith("arsc"):
                assert entry.compress_type == zipfile.ZIP_STORED, entry.filename
            if entry.compress_type == zipfile.ZIP_STORED:
                assert begins % (elf.PAGE if library else 4) == 0, entry.filename


def test_its_libraries_are_what_the_loader_takes(signed, tmp_path):
    with zipfile.ZipFile(signed) as archive:
        names = [name for name in archive.namelist() if name.endswith(".so")]
        for name in names:
            archive.extract(name, tmp_path)
    system = {"libc.so", "libm.so", "libdl.so", "liblog.so"}
    for name in names:
        found = elf.facts(tmp_path / name)
        assert found.machine == native.CPUS[name.split("/")[1]]
        assert set(found.needed) <= system | ({"libacdbit_runtime.so"} if "acdbit_jni" in name else set()), name
        assert not found.text_relocations and not found.thread_local and not found.executable_stack, name
        published = name.endswith("x86_64/libtensorflowlite_jni.so")  # cannot be mended; see apk.Build.libraries
        assert found.alignment == (4096 if published else elf.PAGE), name
    for abi in native.CPUS:
        symbols = ["nm", "-D", "--defined-only", str(tmp_path / "lib" / abi / "libacdbit_jni.so")]
        said = subprocess.run(symbols, check=True, stdout=subprocess.PIPE, text=True).stdout
        methods = {line.split()[-1] for line in said.splitlines()}
        prefix = "Java_org_acdbit_classifier_AcdbitDelegate_"
        assert {name for name in methods if name.startswith("Java_")} == {
            prefix + name for name in ("create", "destroy", "kernels", "lastError")
        }


def test_realigned_tflite_differs_from_the_published_one_in_places_only(build, tmp_path):
    """Every byte that is mapped is mapped to the address where it was."""
    source = build.fetched.tflite_library("arm64-v8a")
    elf.realign(source, tmp_path / "mended.so")
    assert loaded(source) == loaded(tmp_path / "mended.so")
    with pytest.raises(elf.ElfError, match="share the page"):
        elf.realign(build.fetched.tflite_library("x86_64"), tmp_path / "other.so")


def loaded(path):
    data = path.read_bytes()
    segments = [segment for segment in elf._segments(data) if segment.kind == 1]
    # The header of the file, which says where things lie in it, is itself in the first segment.
    return [
        (segment.address, segment.memory_size, data[segment.offset : segment.offset + segment.file_size][0 if i else 4096 :])
        for i, segment in enumerate(segments)
    ]


def test_it_asks_for_the_camera_and_for_nothing_else(build, signed):
    said = packages.call(build.fetched.aapt2(), "dump", "badging", signed)
    assert re.findall(r"uses-permission.*: name='(.*?)'", said) == ["android.permission.CAMERA"]
    assert "package: name='org.acdbit.demo'" in said
    assert re.search(r"(sdkVersion|minSdkVersion):'24'", said) and "targetSdkVersion:'35'" in said
    required = re.findall(r"^  uses-feature: name='(.*?)'", said, re.MULTILINE)
    assert not [name for name in required if "camera" in name], "the app can be installed where there is no camera"
    assert "native-code: 'arm64-v8a' 'x86_64'" in said
    assert "launchable-activity: name='org.acdbit.demo.MainActivity'" in said
    tree = packages.call(build.fetched.aapt2(), "dump", "xmltree", "--file", "AndroidManifest.xml", signed)
    assert "debuggable" not in tree and re.search(r"extractNativeLibs\(0x[0-9a-f]+\)=false", tree)
    assert len(re.findall(r"exported\(0x[0-9a-f]+\)=true", tree)) == 1


def test_nothing_is_newer_than_android_7_or_hidden(build, tmp_path):
    assert sniffed(build, build.classes) == []
    # The sniffer finds what it should.
    source = tmp_path / "bad" / "Bad.java"
    source.parent.mkdir()
    source.write_text(
        "public class Bad {\n"
        "  Object newer() { return java.time.Instant.now(); }\n"
        "  int later(android.view.WindowManager m) { return m.getCurrentWindowMetrics().hashCode(); }\n"
        '  Object hidden() { return android.os.SystemProperties.get("x"); }\n'
        "}\n"
    )
    apk.compile_java([source.parent], tmp_path / "classes", [build.android])
    found = " ".join(sniffed(build, [tmp_path / "classes"]))
    assert all(name in found for name in ("java.time.Instant", "getCurrentWindowMetrics", "android.os.SystemProperties"))


def sniffed(build, folders):
    """What Animal Sniffer says of calls that Android 7's public API does not have."""
    jars = ["animal-sniffer-1.24.jar", "asm-9.7.jar"]
    known = [path for folder in folders for path in folder.rglob("*.class")]
    script = harness.BUILD / "classes" / "sniffer"
    apk.compile_java([harness.DEMO / "tests" / "sniffer"], script, [build.fetched.jar(name) for name in jars])
    said = packages.call(
        *("java", "-cp", ":".join(map(str, [script, *(build.fetched.jar(name) for name in jars)])), "Sniffer"),
        *(build.fetched.jar("android-api-level-24-7.0_r2.signature"), *build.classes, *build.fetched.tflite(), "--", *known),
    )
    return [line for line in said.splitlines() if "Undefined reference" in line]


def test_every_string_is_there_in_german_with_the_same_places_for_values():
    english, german = (strings(RESOURCES / name / "strings.xml") for name in ("values", "values-de"))
    assert english.keys() == german.keys() and len(english) > 40
    for key, text in english.items():
        assert placeholders(text) == placeholders(german[key]), key
    same = {key for key, text in english.items() if text == german[key]}
    assert same <= {
        "answer",
        "figures",
        "figures_time",
        "milliseconds",
        "compare_answer",
        "kernels_tflite",
        "form_bits",
        "threads.one",
        "threads.other",
    }


def test_no_text_on_the_screen_stands_in_a_layout_or_in_code():
    for layout in RESOURCES.glob("layout*/*.xml"):
        for element in ElementTree.parse(layout).iter():
            for name in ("text", "contentDescription", "hint"):
                value = element.get(ANDROID + name)
                assert value is None or value.startswith("@string/"), (layout.name, value)
    for source in apk.SOURCES["app"].rglob("*.java"):
        assert not re.search(r'(setText|setTitle|setContentDescription|showError)\("[^"]', source.read_text()), source.name


def test_the_strings_of_the_code_are_those_of_the_resources():
    used = set(
        itertools.chain(
            *(re.findall(r"R\.(?:string|plurals)\.(\w+)", path.read_text()) for path in apk.SOURCES["app"].rglob("*.java"))
        )
    )
    used |= set(itertools.chain(*(re.findall(r"@string/(\w+)", path.read_text()) for path in RESOURCES.rglob("*.xml"))))
    used |= set(re.findall(r"@string/(\w+)", apk.MANIFEST.read_text()))
    assert used == {key.split(".")[0] for key in strings(RESOURCES / "values" / "strings.xml")}


def strings(path):
    found = {}
    for element in ElementTree.parse(path).getroot():
        if element.tag == "plurals":
            found |= {f"{element.get('name')}.{item.get('quantity')}": item.text for item in element}
        else:
            found[element.get("name")] = element.text
    return found


def placeholders(text):
    return sorted(re.findall(r"%\d\$\w", text))


@pytest.mark.parametrize("theme", ["values", "values-night"])
def test_text_has_a_contrast_of_at_least_4_5_to_what_it_stands_on(theme):
    colors = {element.get("name"): element.text for element in ElementTree.parse(RESOURCES / theme / "colors.xml").getroot()}
    on = {"text": ["panel", "bar", "bar_twin"], "text_minor": ["panel"], "text_error": ["panel"], "accent": ["panel"]}
    for text, grounds in on.items():
        for ground in grounds:
            first, second = sorted((luminance(colors[text]), luminance(colors[ground])), reverse=True)
            assert (first + 0.05) / (second + 0.05) >= 4.5, (text, ground)


def luminance(color):
    """Relative luminance, as WCAG 2 defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (3, 5, 7)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_library_holds_the_classifier_and_nothing_of_the_app(build):
    path = build.aar()
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        (harness.BUILD / "aar_classes.jar").write_bytes(archive.read("classes.jar"))
        manifest = ElementTree.fromstring(archive.read("AndroidManifest.xml"))
    assert {f"jni/{abi}/{name}" for abi in native.CPUS for name in native.LIBRARIES} <= names
    assert {"AndroidManifest.xml", "R.txt", "classes.jar", "proguard.txt", "LICENSE"} <= names
    assert manifest.get("package") == "org.acdbit.classifier" and not list(manifest.iter("uses-permission"))
    with zipfile.ZipFile(harness.BUILD / "aar_classes.jar") as archive:
        assert all(name.startswith("org/acdbit/classifier/") for name in archive.namelist())
        assert not any(b"android/" in archive.read(name) for name in archive.namelist()), "pure Java"


def test_the_example_of_the_library_compiles(build, tmp_path):
    """The lines that the README gives to whoever adds it."""
    [example] = re.findall(r"```java\n(.*?)```", (harness.DEMO / "README.md").read_text(), re.DOTALL)
    assert len(example.strip().splitlines()) <= 14
    source = tmp_path / "source" / "Example.java"
    source.parent.mkdir()
    imports, body = example.split("\n\n", 1)
    signature = "void run(android.graphics.Bitmap bitmap, android.content.Context context) throws Exception"
    source.write_text(f"{imports}\nclass Example {{\n  {signature} {{\n{body}\n  }}\n}}\n")
    jar = harness.BUILD / "classes.jar"
    build.aar()
    apk.compile_java([source.parent], tmp_path / "classes", [jar, *build.fetched.tflite(), build.android])
