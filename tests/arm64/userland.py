"""An arm64 userland under qemu's user emulation, as on a Raspberry Pi 4: runs arm64 programs and stock aarch64 wheels.

    python tests/arm64/userland.py [--folder FOLDER] setup
    python tests/arm64/userland.py [--folder FOLDER] run PROGRAM [ARGUMENT ...]
    python tests/arm64/userland.py [--folder FOLDER] count PROGRAM [ARGUMENT ...]

With `--python 3.13` it is a userland of Debian 13, in a folder of its own; with `--machine armv7l` one of 32 bits, with Debian's
numpy and Pillow, for which PyPI has no wheels. PROGRAM is a binary for that machine, or `python` for the userland's own Python.
`count` prints the executed instructions of every region that the program marks (instructions.c): with a deterministic program
they repeat to the instruction, which makes them the one speed figure that an emulator can give.

`setup` needs Debian 12 on x86_64, apt's and PyPI's mirrors, and root for the packages that are missing. It uses no
chroot and registers nothing with the kernel, takes a minute and 200 MB, and returns at once where it has run before.
Debian 12 is what Raspberry Pi OS is built from.
"""

import argparse
import dataclasses
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
DEFAULT_FOLDER = HERE.parents[1] / ".arm64"
CPU = "cortex-a72"
# Processors that are emulated: what qemu calls them, the part in their /proc/cpuinfo, and what they have beyond ARMv8.0, by
# which LiteRT's kernels choose. qemu has no core of today with i8mm; "i8mm" is its core of all features without SVE and SME.
CPUS = {
    "cortex-a72": ("cortex-a72", 0xD08, ""),  # Raspberry Pi 4
    "cortex-a76": ("cortex-a76", 0xD0B, "atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"),  # Raspberry Pi 5
    "sve128": ("max,sve-default-vector-length=16", 0xD4D, ""),
    "sve256": ("max,sve-default-vector-length=32", 0xD40, ""),  # the vectors of a Neoverse V1
    "i8mm": ("max,sve=off,sme=off", 0xD4D, "atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp i8mm bf16"),
}
# By version of Python: the release of Debian that has it.
PYTHONS = {"3.11": "bookworm", "3.13": "trixie"}
# By machine: Debian's name for it, qemu's, and the guest's packages beside Python.
MACHINES = {
    "aarch64": ("arm64", "qemu-aarch64", ["libstdc++6"]),
    "armv7l": ("armhf", "qemu-arm", ["python3-numpy", "python3-pil"]),
}

# What the host needs: program that shows it is there -> Debian package.
HOST_PACKAGES = {
    "gcc": "gcc",
    "g++": "g++",
    "qemu-aarch64": "qemu-user",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "cmake": "cmake",
    "ninja": "ninja-build",
    "/usr/src/googletest/CMakeLists.txt": "googletest",
}
GUEST_WHEELS = [
    "ai-edge-litert==2.3.0",
    "backports.strenum",
    "flatbuffers",
    "ml_dtypes",
    "numpy<2.3",
    "protobuf",
    "tqdm",
    "typing_extensions",
]
GLIBC_TAGS = ["manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28", "manylinux_2_34"]


@dataclasses.dataclass(frozen=True)
class Counts:
    """Executed instructions of a region, over all its calls; `instructions` is the sum of the four classes."""

    calls: int
    instructions: int
    memory: int
    simd: int
    branch: int
    integer: int


class Userland:
    """The userland in a folder.

    Args:
        folder: where it is or shall be; by default `.arm64` at the repository's root, or for another Python or machine than the
            first ones a folder within.
        cpu: the emulated processor, one of `CPUS`; of a 32-bit machine it is a Cortex-A7.
        python: version of the userland's Python, one of `PYTHONS`.
        machine: one of `MACHINES`.
    """

    def __init__(self, folder=None, cpu=CPU, python="3.11", machine="aarch64"):
        self.cpu, self.python, self.machine = cpu, python, machine
        if folder is None:
            first = (python, machine) == ("3.11", "aarch64")
            folder = DEFAULT_FOLDER if first else DEFAULT_FOLDER / f"{machine}-{python}"
        self.folder = pathlib.Path(folder).resolve()
        self.root = self.folder / "root"
        self.site = self.folder / "site"
        self.counter = self.folder / "libinstructions.so"
        self.stamp = self.folder / "ready"

    def ready(self):
        """Whether `setup` has finished, with these sources, and the host still has its packages."""
        return self.stamp.is_file() and self.stamp.read_text() == _fingerprint() and not _missing_packages()

    def obstacle(self):
        """Why `setup` cannot work on this machine, as a sentence; empty if it can."""
        if self.ready():
            return ""
        if platform.system() != "Linux" or platform.machine() != "x86_64" or not shutil.which("apt-get"):
            return "the arm64 userland is made on Debian or Ubuntu for x86_64 only"
        missing = _missing_packages()
        if missing and os.geteuid() != 0:
            return f"the arm64 userland needs Debian packages that only root can install: {' '.join(missing)}"
        return ""

    def setup(self):
        """Makes the userland unless it is ready.

        Raises:
            RuntimeError: if this machine cannot make one.
            subprocess.CalledProcessError: if a download or a compiler failed; what it printed is on stderr.
        """
        if self.ready():
            return
        if obstacle := self.obstacle():
            raise RuntimeError(obstacle)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stamp.unlink(missing_ok=True)
        install_host_packages(*HOST_PACKAGES)
        self._install_debian()
        self._install_wheels()
        self._describe_cpu(self.root, CPU)
        _call("gcc", "-shared", "-fPIC", "-O2", "-o", self.counter, HERE / "instructions.c")
        self.stamp.write_text(_fingerprint())

    def run(self, program, *arguments, environment=None, **options):
        """Runs a program under emulation.

        Args:
            program: path of an arm64 binary, or "python" for the userland's.
            arguments: the program's.
            environment: mapping with its environment variables beyond the necessary; the host's are not passed on.
            options: for `subprocess.run`.

        Returns:
            subprocess.CompletedProcess.
        """
        return self._emulate([], program, arguments, environment, options)

    def count(self, program, *arguments, environment=None, **options):
        """Runs a program like `run`, and counts its instructions.

        Returns:
            (subprocess.CompletedProcess, dict from tag to `Counts`); tag 0 is the whole run.
        """
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "counts"
            plugin = ["-plugin", f"{self.counter},output={output}"]
            process = self._emulate(plugin, program, arguments, environment, options)
            lines = output.read_text().splitlines() if output.is_file() else []
        rows = [[int(field) for field in line.split()] for line in lines]
        return process, {tag: Counts(*fields) for tag, *fields in rows}

    def _emulate(self, flags, program, arguments, environment, options):
        if program == "python":
            program = self.root / f"usr/bin/python{self.python}"
        guest = {
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PATH": "/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPATH": str(self.site),
            **(environment or {}),
        }
        _, emulator, _ = MACHINES[self.machine]
        cpu = CPUS[self.cpu][0] if self.machine == "aarch64" else "cortex-a7"
        command = [emulator, "-cpu", cpu, *flags, "-L", self._root_of_cpu(), program, *arguments]
        return subprocess.run([shutil.which(command[0]) or command[0], *map(str, command[1:])], env=guest, **options)

    def _install_debian(self):
        """Unpacks packages of the guest and what they depend on below `root`, with an apt of their own."""
        architecture, _, packages = MACHINES[self.machine]
        state = self.folder / "apt"
        for folder in (self.root, state / "lists/partial", state / "archives/partial"):
            folder.mkdir(parents=True, exist_ok=True)
        (state / "status").write_text("")
        (state / "sources.list").write_text(_sources(architecture, PYTHONS[self.python]))
        apt = ["apt-get", "-qq", "-y"]
        for option in (
            f"APT::Architecture={architecture}",
            f"APT::Architectures={architecture}",
            "APT::Install-Recommends=false",
            "APT::Sandbox::User=root",
            "Debug::NoLocking=true",
            f"Dir::Etc::SourceList={state / 'sources.list'}",
            "Dir::Etc::SourceParts=/dev/null",
            f"Dir::State::Lists={state / 'lists'}",
            f"Dir::State::status={state / 'status'}",
            f"Dir::Cache={state}",
            f"Dir::Cache::archives={state / 'archives'}",
        ):
            apt += ["-o", option]
        _call(*apt, "update")
        _call(*apt, "install", "--download-only", f"python{self.python}", *packages)
        for package in sorted((state / "archives").glob("*.deb")):
            _call("dpkg-deb", "--extract", package, self.root)
        # Since Debian 13 packages leave this link to base-files.
        if not (self.root / "lib").exists():
            (self.root / "lib").symlink_to("usr/lib")
        shutil.rmtree(state)

    def _install_wheels(self):
        shutil.rmtree(self.site, ignore_errors=True)
        if (self.python, self.machine) == ("3.11", "aarch64"):
            self.install(self.site, "--no-deps", *GUEST_WHEELS)

    def install(self, folder, *arguments):
        """Installs wheels for the userland's Python into a folder, to be named in its PYTHONPATH; arguments are pip's."""
        platforms = [f"--platform={tag}_{self.machine}" for tag in GLIBC_TAGS]
        _call(
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", folder),
            *("--only-binary=:all:", "--implementation=cp", f"--python-version={self.python}"),
            *platforms,
            *arguments,
        )

    def _root_of_cpu(self):
        """The root of this processor: the same userland with other descriptions."""
        root = self.root
        if self.cpu != CPU:
            root = self.folder / f"root-{self.cpu}"
            root.mkdir(exist_ok=True)
            for entry in self.root.iterdir():
                if entry.name not in ("proc", "sys") and not (root / entry.name).is_symlink():
                    (root / entry.name).symlink_to(entry)
            self._describe_cpu(root, self.cpu)
        return root

    def _describe_cpu(self, root, cpu_name):
        """Puts /proc/cpuinfo and /sys of a board with four such processors below `root`.

        cpuinfo, inside ai-edge-litert, crashes when an arm64 process reads an x86 machine's.
        """
        _, part, features = CPUS[cpu_name]
        cpus = root / "sys/devices/system/cpu"
        files = {cpus / "possible": "0-3", cpus / "present": "0-3", cpus / "kernel_max": "255"}
        processors = ""
        for i in range(4):
            cpu = cpus / f"cpu{i}"
            files[cpu / "topology/physical_package_id"] = "0"
            for name in ("cluster_cpus_list", "core_siblings_list", "package_cpus_list"):
                files[cpu / "topology" / name] = "0-3"
            files[cpu / "cpufreq/cpuinfo_max_freq"] = "1500000"
            files[cpu / "cpufreq/cpuinfo_min_freq"] = "600000"
            files[cpu / "cache/index2/level"] = "2"
            files[cpu / "cache/index2/size"] = "1024K"
            files[cpu / "cache/index2/type"] = "Unified"
            files[cpu / "cache/index2/shared_cpu_list"] = "0-3"
            processors += (
                f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid {features}\n"
                f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part:#x}\n"
                "CPU revision\t: 3\n\n"
            )
        files[root / "proc/cpuinfo"] = processors
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if text.endswith("\n") else text + "\n")


def _sources(architecture, release):
    """A sources.list for a release of Debian, from where this machine has its own packages."""
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    fields = "$(REPO_URI)|$(CODENAME)|$(COMPONENT)|$(ORIGIN)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]
    targets = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    found = {target for target in targets if target.split("|")[1:] == [codename, "main", "Debian"]}
    if not found:
        raise RuntimeError("apt has no lists of Debian's packages: apt-get update")
    address, *_ = min(found).split("|")
    return f"deb [arch={architecture}] {address} {release} main\n"


def _fingerprint():
    sources = (HERE / "userland.py").read_bytes() + (HERE / "instructions.c").read_bytes()
    return hashlib.sha256(sources).hexdigest()


def install_host_packages(*names):
    """Installs what is missing of `HOST_PACKAGES`, by the names of what shows that it is there.

    Raises:
        RuntimeError: something is missing, and this is not Debian or not root.
        subprocess.CalledProcessError: apt-get failed; what it printed is on stderr.
    """
    missing = _missing_packages(names)
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise RuntimeError(f"these tests need Debian packages that root can install: apt-get install {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL)
    _call("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=environment)


def _missing_packages(names=tuple(HOST_PACKAGES)):
    return [HOST_PACKAGES[name] for name in names if not (os.path.exists(name) or shutil.which(name))]


def _call(*command, **options):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, **options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help=f"where the userland is (default: {DEFAULT_FOLDER}, or a folder within)")
    parser.add_argument("--python", choices=PYTHONS, default="3.11", help="default: %(default)s")
    parser.add_argument("--machine", choices=MACHINES, default="aarch64", help="default: %(default)s")
    parser.add_argument("action", choices=["setup", "run", "count"])
    parser.add_argument("program", nargs=argparse.REMAINDER, help="program and its arguments")
    options = parser.parse_args()
    userland = Userland(options.folder, python=options.python, machine=options.machine)
    try:
        userland.setup()
    except (RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"{parser.prog}: {error}")
    if options.action == "setup":
        return 0
    if not options.program:
        parser.error("a program is needed")
    if options.action == "run":
        return userland.run(*options.program).returncode
    process, regions = userland.count(*options.program)
    for tag, counts in sorted(regions.items()):
        fields = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(counts).items())
        print(f"{f'region {tag}' if tag else 'whole run'}: {fields}", file=sys.stderr)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
