"""From sources to a signed APK and to an AAR, without Gradle: javac, D8, aapt2, a zip that Android maps, apksigner."""

import pathlib
import re
import shutil
import struct
import zipfile
import zlib

import assets
import elf
import native
import packages
from packages import call

HERE = pathlib.Path(__file__).resolve().parent
DEMO = HERE.parent
MANIFEST = DEMO / "app" / "src" / "main" / "AndroidManifest.xml"
RESOURCES = DEMO / "app" / "src" / "main" / "res"
SOURCES = {
    "core": DEMO / "core" / "src" / "main" / "java",
    "app": DEMO / "app" / "src" / "main" / "java",
}
APPLICATION, LIBRARY = "org.acdbit.demo", "org.acdbit.classifier"
MIN_SDK, TARGET_SDK = 24, 35
VERSION_CODE, VERSION_NAME = 1, "0.2.0"
TFLITE = "libtensorflowlite_jni.so"

# Android maps what is stored at such an address; 0xD935 is the field in which signers look for it.
_ALIGNMENT_FIELD = 0xD935
# Nothing in the archive depends on when it was made.
_DATE = (1981, 1, 1, 1, 1, 2)


class Build:
    """A build in a folder.

    Args:
        folder: for all that is made.
        fetched: `Packages`.
    """

    def __init__(self, folder, fetched):
        self.folder = pathlib.Path(folder)
        self.fetched = fetched
        self.android = fetched.jar(packages.ANDROID)

    def apk(self, untrained=True, abis=tuple(native.CPUS)):
        """Builds, signs and verifies the app.

        Args:
            untrained: whether the untrained pair of models is in it.
            abis: processors whose libraries are in it.

        Returns:
            Path of the APK.
        """
        self.compile()
        for abi in abis:
            self.link(abi)
        files = assets.make(self.folder / "assets" / "models", untrained)
        unsigned = self.folder / "unsigned.apk"
        with Archive(unsigned) as archive:
            with zipfile.ZipFile(self.folder / "resources.apk") as base:
                for entry in base.infolist():
                    archive.add(entry.filename, base.read(entry), stored=entry.compress_type == zipfile.ZIP_STORED)
            archive.add("classes.dex", self._dex().read_bytes())
            for abi in abis:
                for path in self.libraries(abi):
                    archive.add(f"lib/{abi}/{path.name}", path.read_bytes(), stored=True, alignment=elf.PAGE)
            for path in files:
                content = path.read_bytes()
                # A model is mapped where it lies, unless it is worth unpacking.
                archive.add(f"assets/models/{path.name}", content, stored=_compressed(content) > len(content) // 2)
            for name, path in notices().items():
                archive.add(f"assets/licences/{name}", path.read_bytes())
        return self._signed(unsigned, self.folder / "acdbit-demo.apk")

    def aar(self, abis=tuple(native.CPUS)):
        """Builds the classifier as a library for other apps; returns the AAR's path."""
        jar, aar = self.folder / "classes.jar", self.folder / "acdbit-classifier.aar"
        classes = self.folder / "classes" / "aar"
        compile_java([SOURCES["core"]], classes, self.fetched.tflite())
        with Archive(jar) as archive:
            for path in sorted(classes.rglob("*.class")):
                archive.add(str(path.relative_to(classes)), path.read_bytes())
        manifest = (
            f'<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="{LIBRARY}">\n'
            f'    <uses-sdk android:minSdkVersion="{MIN_SDK}"/>\n</manifest>\n'
        )
        with Archive(aar) as archive:
            archive.add("AndroidManifest.xml", manifest.encode())
            archive.add("R.txt", b"")
            archive.add("classes.jar", jar.read_bytes())
            archive.add("proguard.txt", (DEMO / "core" / "keep.pro").read_bytes())
            archive.add("LICENSE", (DEMO.parent / "LICENSE").read_bytes())
            for abi in abis:
                for path in native.build(abi, self.folder / abi):
                    archive.add(f"jni/{abi}/{path.name}", path.read_bytes(), stored=True)
        return aar

    @property
    def classes(self):
        """The folders of the classes of core and app."""
        return [self.folder / "classes" / part for part in SOURCES]

    def compile(self):
        """Compiles resources, core and app."""
        generated = self.resources()
        core, app = self.classes
        compile_java([SOURCES["core"]], core, self.fetched.tflite())
        # Android last: it has classes of the same names as its libraries.
        compile_java([SOURCES["app"], generated], app, [core, *self.fetched.tflite(), self.android])

    def resources(self):
        """Compiles resources and manifest into `resources.apk`; returns the folder of the class R."""
        generated = self.folder / "generated"
        shutil.rmtree(generated, ignore_errors=True)
        generated.mkdir(parents=True)
        manifest = self.folder / "AndroidManifest.xml"
        # Gradle has the application's name elsewhere, and wants it nowhere else.
        manifest.write_text(MANIFEST.read_text().replace("<manifest ", f'<manifest package="{APPLICATION}" ', 1))
        compiled = self.folder / "resources.zip"
        call(self.fetched.aapt2(), "compile", "--dir", RESOURCES, "-o", compiled)
        call(
            *(self.fetched.aapt2(), "link", "-I", self.android, "--manifest", manifest, "--java", generated),
            *("--min-sdk-version", MIN_SDK, "--target-sdk-version", TARGET_SDK),
            *("--version-code", VERSION_CODE, "--version-name", VERSION_NAME),
            *("-o", self.folder / "resources.apk", compiled),
        )
        return generated

    def libraries(self, abi):
        """Paths of the libraries for a processor."""
        return [self.folder / abi / name for name in (*native.LIBRARIES, TFLITE)]

    def link(self, abi):
        """Makes them: the runtime and its Java door, compiled, and TFLite, as published or, where it can be, for large pages."""
        published = self.fetched.tflite_library(abi)
        *ours, target = self.libraries(abi)
        for made, path in zip(native.build(abi, self.folder / abi), ours, strict=True):
            shutil.copyfile(made, path)
        try:
            elf.realign(published, target)
        except elf.ElfError:
            # Segments of different rights share a page, on x86_64: emulators with pages of 4 KiB load it.
            shutil.copyfile(published, target)

    def _dex(self):
        folder = self.folder / "dex"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        compiled = [path for place in self.classes for path in place.rglob("*.class")]
        call(
            *("java", "-cp", self.fetched.jar("r8-8.5.35.jar"), "com.android.tools.r8.D8", "--release"),
            *("--min-api", MIN_SDK, "--lib", self.android, "--output", folder, *compiled, *self.fetched.tflite()),
        )
        return folder / "classes.dex"

    def _signed(self, unsigned, target):
        key = self.fetched.folder / "debug.p12"
        if not key.is_file():
            call(
                *("keytool", "-genkeypair", "-keystore", key, "-storetype", "PKCS12", "-storepass", "android"),
                *("-alias", "debug", "-keyalg", "RSA", "-keysize", "2048", "-validity", "10000", "-dname", "CN=debug"),
            )
        call(
            *("apksigner", "sign", "--ks", key, "--ks-pass", "pass:android", "--ks-key-alias", "debug"),
            *("--min-sdk-version", MIN_SDK, "--v1-signing-enabled", "false", "--v2-signing-enabled", "true"),
            *("--v3-signing-enabled", "true", "--out", target, unsigned),
        )
        schemes = signatures(target)
        if not {"v2", "v3"} <= schemes:
            raise packages.PackageError(f"{target} is signed by {sorted(schemes)}, not by v2 and v3")
        return target


class Archive:
    """A zip whose stored entries lie where Android maps them, written in order; a context."""

    def __init__(self, path):
        self._zip = zipfile.ZipFile(path, "w")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._zip.close()

    def add(self, name, content, stored=False, alignment=4):
        entry = zipfile.ZipInfo(name, _DATE)
        entry.create_system = 0
        entry.external_attr = 0
        entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
        if stored:
            begins = self._zip.fp.tell() + 30 + len(name.encode()) + 6
            padding = -begins % alignment
            entry.extra = struct.pack("<HHH", _ALIGNMENT_FIELD, 2 + padding, alignment) + bytes(padding)
        self._zip.writestr(entry, content)


def compile_java(sources, target, class_path):
    """Compiles folders of Java 8; a warning is an error, but those of others' class files.

    Raises:
        PackageError: with the compiler's messages.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    files = [path for folder in sources for path in sorted(folder.rglob("*.java"))]
    call(
        *("javac", "--release", "8", "-Xlint:all,-options,-classfile", "-Werror", "-encoding", "UTF-8"),
        *("-cp", ":".join(map(str, class_path)), "-d", target, *files),
    )


def signatures(apk):
    """The schemes by which an APK is signed, "v1", "v2", ..., as the verifier finds them for the oldest Android that it runs on.

    Raises:
        PackageError: a signature is not right.
    """
    said = call("apksigner", "verify", "--verbose", "--min-sdk-version", MIN_SDK, apk)
    return {f"v{number}" for number in re.findall(r"Verified using v(\d) scheme .*: true", said)}


def parts(apk):
    """Bytes that each part of an APK takes in it: dict from what it is to bytes."""
    found = {}
    with zipfile.ZipFile(apk) as archive:
        for entry in archive.infolist():
            found[_part(entry.filename)] = found.get(_part(entry.filename), 0) + entry.compress_size
    found["archive, padding and signature"] = pathlib.Path(apk).stat().st_size - sum(found.values())
    return found


def _part(name):
    if name.startswith("lib/"):
        _, abi, library = name.split("/")
        return f"{abi}: {'TFLite' if library == TFLITE else 'runtime and JNI'}"
    if name.startswith("assets/models/"):
        return f"model {name.split('/')[-1].removesuffix('.tflite')}"
    return {"classes.dex": "classes"}.get(name, "resources, manifest and licences")


def notices():
    """The licences of what the app holds: file name -> path."""
    return {"acdbit-keras.txt": DEMO.parent / "LICENSE"}


def _compressed(content):
    return len(zlib.compress(content))
