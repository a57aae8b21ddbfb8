"""Microcontrollers under qemu's system emulation: builds a flat file with the engine for one, and runs it on images.

    board = Boards(folder)["cortex-m4"]
    result = board.classify(content, images)

Needs Debian 12 and, for the packages that are missing, root. What an emulator cannot give are cycles, milliseconds and energy;
instructions repeat exactly.
"""

import dataclasses
import pathlib
import re
import struct
import subprocess
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
RUNTIME = REPOSITORY / "acdbit_keras" / "convert" / "runtime"
MCU = RUNTIME / "mcu"

sys.path.append(str(HERE.parent))

from debian import install_packages

from acdbit_keras.convert import flat_source

PACKAGES = {
    "gcc": "gcc",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "/usr/lib/arm-none-eabi/newlib/nano.specs|/usr/lib/arm-none-eabi/lib/nano.specs": "libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}
RISCV_PACKAGES = {
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
    "/usr/lib/picolibc/riscv64-unknown-elf/picolibc.specs": "picolibc-riscv64-unknown-elf",
    "qemu-system-riscv32": "qemu-system-misc",
}

_COMMON = ["-ffunction-sections", "-fdata-sections", "-fno-common", "-ffp-contract=off", "-Wall", "-Wextra"]
# GCC thinks that loops over the rows of one call might run none.
_CXX = ["-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-Wno-maybe-uninitialized"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A processor and the machine that emulates it.

    Attributes:
        cpu: flags of the compiler that name it.
        machine: arguments of qemu.
        script: linker script.
        tools: prefix of the compiler's name.
    """

    cpu: tuple
    machine: tuple
    script: str
    tools: str = "arm-none-eabi-"


def _cortex(name, *flags):
    return ("-mthumb", f"-mcpu={name}", *flags)


KINDS = {
    "cortex-m3": Kind(_cortex("cortex-m3", "-mfloat-abi=soft"), ("-M", "mps2-an385"), "mps2.ld"),
    "cortex-m4": Kind(_cortex("cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), ("-M", "mps2-an386"), "mps2.ld"),
    "cortex-m7": Kind(_cortex("cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"), ("-M", "mps2-an500"), "mps2.ld"),
    "cortex-m33": Kind(_cortex("cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"), ("-M", "mps2-an505"), "mps2_an505.ld"),
    "cortex-m55": Kind(_cortex("cortex-m55", "-mfloat-abi=hard"), ("-M", "mps3-an547"), "mps3_an547.ld"),
    "rv32imafc": Kind(
        ("-march=rv32imafc", "-mabi=ilp32f", "-mcmodel=medany"), ("-M", "virt", "-cpu", "rv32", "-bios", "none"),
        "riscv_virt.ld", "riscv64-unknown-elf-",
    ),
    "rv32imc": Kind(
        ("-march=rv32imc", "-mabi=ilp32", "-mcmodel=medany"), ("-M", "virt", "-cpu", "rv32", "-bios", "none"),
        "riscv_virt.ld", "riscv64-unknown-elf-",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    """What a board said.

    Attributes:
        logits: float32 `(images, outputs)`.
        instructions: executed per image, the mean.
        flash_bytes: code and constants, of which the model is a part.
        ram_bytes: static data, of which the arena is a part.
        arena_bytes: working memory of the engine.
        stack_bytes: the deepest that the stack was.
        profile: dict from function to instructions per image, of the whole program.
    """

    logits: np.ndarray
    instructions: int
    flash_bytes: int
    ram_bytes: int
    arena_bytes: int
    stack_bytes: int
    profile: dict


class Board:
    """One kind of microcontroller, and a folder for what is built for it."""

    def __init__(self, name, folder):
        self.name, self.kind, self.folder = name, KINDS[name], pathlib.Path(folder) / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._engines = {}

    def classify(self, content, images, optimisation="-O2"):
        """Runs a flat file on images, uint8 or float32 as it takes them.

        Raises:
            RuntimeError: it does not compile, or the board said something went wrong; with what was printed.
        """
        for name, text in flat_source.texts(content, "model").items():
            (self.folder / name).write_text(text)
        return self.run([self.folder / "model.c", *self._engine(optimisation)], MCU / "main.c", images, optimisation)

    def run(self, sources, main, images, optimisation="-O2"):
        """Builds sources or objects with a main program, and runs it on the images."""
        program = self._link([self._compile(source, optimisation) for source in (*sources, main, MCU / "board.c", self._start())])
        (self.folder / "images.bin").write_bytes(struct.pack("<i", len(images)) + np.ascontiguousarray(images).tobytes())
        counts = self.folder / "counts"
        counts.unlink(missing_ok=True)
        plugin = self.folder.parent / "libinstructions.so"
        _call("gcc", "-shared", "-fPIC", "-O2", "-o", plugin, HERE / "instructions.c")
        qemu = "qemu-system-riscv32" if self._is_riscv() else "qemu-system-arm"
        command = [
            *(qemu, *self.kind.machine, "-nographic", "-monitor", "none", "-serial", "none"),
            *("-semihosting-config", "enable=on,target=native", "-plugin", f"{plugin},output={counts}", "-kernel", program),
        ]
        process = subprocess.run(
            list(map(str, command)), cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
        )
        if process.returncode != 0:
            raise RuntimeError(f"{self.name} stopped with {process.returncode}: {process.stdout[-2000:]}")
        return self._result(process.stdout, counts.read_text().splitlines(), program)

    def _is_riscv(self):
        return self.kind.tools.startswith("riscv")

    def _start(self):
        return MCU / ("start_riscv.c" if self._is_riscv() else "start_cortex_m.c")

    def _engine(self, optimisation):
        if optimisation not in self._engines:
            sources = [RUNTIME / "src" / name for name in flat_source.ENGINE_SOURCES]
            self._engines[optimisation] = [self._compile(source, optimisation) for source in sources]
        return self._engines[optimisation]

    def _compile(self, source, optimisation):
        if source.suffix == ".o":
            return source
        target = self.folder / f"{source.name}{optimisation}.o"
        plus = source.suffix == ".cc"
        specs = ["--specs=picolibc.specs"] if self._is_riscv() else []
        includes = [f"-I{folder}" for folder in (RUNTIME / "src", RUNTIME / "include", MCU, self.folder)]
        compiler = f"{self.kind.tools}{'g++' if plus else 'gcc'}"
        flags = [*self.kind.cpu, *specs, optimisation, *_COMMON, *(_CXX if plus else []), *includes]
        _call(compiler, *flags, "-c", source, "-o", target)
        return target

    def _link(self, objects):
        program = self.folder / "program.elf"
        specs = ["--specs=picolibc.specs"] if self._is_riscv() else ["--specs=nano.specs", "--specs=nosys.specs"]
        _call(
            *(f"{self.kind.tools}gcc", *self.kind.cpu, *specs, "-nostartfiles", "-Wl,--gc-sections", f"-L{MCU}", "-T"),
            *(MCU / self.kind.script, *objects, "-lm", "-o", program),
        )
        return program

    def _result(self, text, counts, program):
        arena, stack = (int(re.search(rf"^{word} ([0-9a-f]+)", text, re.M)[1], 16) for word in ("arena", "stack"))
        rows = [[int(word, 16) for word in line.split()[1:]] for line in text.splitlines() if line.startswith("logits ")]
        calls, total = map(int, counts[0].split())
        sizes = subprocess.run([f"{self.kind.tools}size", program], check=True, stdout=subprocess.PIPE, text=True).stdout
        code, data, zeros = map(int, sizes.splitlines()[1].split()[:3])
        return Result(
            logits=np.array(rows, "<u4").view("<f4"),
            instructions=total // calls,
            flash_bytes=code + data,
            ram_bytes=data + zeros,
            arena_bytes=arena,
            stack_bytes=stack,
            profile=self._profile(program, counts[1:], calls),
        )

    def _profile(self, program, lines, calls):
        names = subprocess.run([f"{self.kind.tools}nm", "-C", program], check=True, stdout=subprocess.PIPE, text=True).stdout
        symbols = []
        for line in names.splitlines():
            address, kind, name = line.split(maxsplit=2)
            if kind in "tTwW":
                symbols.append((int(address, 16) & ~1, name))
        symbols.sort()
        starts = np.array([start for start, _ in symbols])
        found = {}
        for line in lines:
            address, count = line.split()
            place = int(np.searchsorted(starts, int(address, 16), side="right")) - 1
            name = symbols[place][1] if place >= 0 else "?"
            found[name] = found.get(name, 0) + int(count)
        return {name: count / calls for name, count in sorted(found.items(), key=lambda item: -item[1])}


class Boards:
    """The boards by name; installs what building and running them needs."""

    def __init__(self, folder, riscv=True):
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._boards = {}
        install_packages(PACKAGES | (RISCV_PACKAGES if riscv else {}))

    def __getitem__(self, name):
        if name not in self._boards:
            self._boards[name] = Board(name, self._folder)
        return self._boards[name]


def _call(*command):
    process = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # nosys.specs warns of the system calls that nobody makes.
    warned = [line for line in process.stdout.splitlines() if "warning:" in line and "is not implemented" not in line]
    if process.returncode != 0 or warned:
        raise RuntimeError(f"{' '.join(map(str, command))} said: {process.stdout[-3000:]}")
