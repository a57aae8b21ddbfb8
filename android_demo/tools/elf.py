"""What Android's loader asks of a library: read from ELF files of 64 bits, and mended where segments are for small pages."""

import dataclasses
import pathlib
import struct

PAGE = 16384
_LOAD, _DYNAMIC, _TLS, _STACK, _RELRO = 1, 2, 7, 0x6474E551, 0x6474E552
_NEEDED, _STRING_TABLE, _TEXT_RELOCATIONS, _FLAGS = 1, 5, 22, 30
_PROGRAM_HEADER, _SECTION_HEADER = "<IIQQQQQQ", "<IIQQQQIIQQ"


class ElfError(ValueError):
    """Not such a file, or one whose layout cannot be mended."""


@dataclasses.dataclass
class Segment:
    """A program header, in the order of its fields."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    alignment: int

    @property
    def end(self):
        return self.address + self.memory_size


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the loader asks.

    Attributes:
        machine: "aarch64" or "x86_64".
        needed: names of the libraries that are loaded with it.
        alignment: the smallest of its segments, in bytes.
        text_relocations: whether code is changed when it is loaded, which Android refuses.
        thread_local: whether it has thread-local variables of the linker's, which Android has from version 10 on.
        executable_stack: whether its stack may hold code.
    """

    machine: str
    needed: tuple
    alignment: int
    text_relocations: bool
    thread_local: bool
    executable_stack: bool


def facts(path):
    """`Facts` of a library.

    Raises:
        ElfError: not an ELF file of 64 bits.
    """
    data = _read(path)
    segments = _segments(data)
    entries = [entry for segment in segments if segment.kind == _DYNAMIC for entry in _dynamic(data, segment)]
    values = dict(entries)
    names = _offset(segments, values[_STRING_TABLE])
    stack = [segment for segment in segments if segment.kind == _STACK]
    return Facts(
        machine={183: "aarch64", 62: "x86_64"}.get(struct.unpack_from("<H", data, 18)[0], "another"),
        needed=tuple(_text(data, names + value) for tag, value in entries if tag == _NEEDED),
        alignment=min(segment.alignment for segment in segments if segment.kind == _LOAD),
        text_relocations=_TEXT_RELOCATIONS in values or bool(values.get(_FLAGS, 0) & 4),
        thread_local=any(segment.kind == _TLS for segment in segments),
        executable_stack=not stack or bool(stack[0].flags & 1),
    )


def realign(source, target):
    """Makes a library whose segments are aligned to 4 KiB loadable where pages have 16 KiB, if its layout permits.

    Moves contents within the file only: no address changes. Data in front of which pages collide stay writable.

    Raises:
        ElfError: segments of different rights share a page of 16 KiB.
    """
    data = bytearray(_read(source))
    segments, sections = _segments(data), _sections(data)
    table = struct.unpack_from("<Q", data, 40)[0]
    loads = sorted((segment for segment in segments if segment.kind == _LOAD), key=lambda segment: segment.address)
    for before, segment in zip(loads, loads[1:]):
        if (before.end - 1) // PAGE == segment.address // PAGE and before.flags != segment.flags:
            raise ElfError(f"{source}: segments of different rights share the page at {segment.address // PAGE * PAGE:#x}")
        padding = (segment.address - segment.offset) % PAGE
        if not padding:
            continue
        at = segment.offset
        data[at:at] = bytes(padding)
        for other in segments:
            # Of what begins where the gap is, only this segment and what lies in it moves.
            if other.offset > at or other.offset == at and (other.kind == _LOAD or other.address == segment.address):
                other.offset += padding
        for section in sections:
            address, offset = section[3], section[4]
            if offset >= at and (address >= segment.address or address == 0):
                section[4] += padding
        table += padding if table >= at else 0
        shared = (before.end - 1) // PAGE == segment.address // PAGE
        if shared and before.address - before.offset != segment.address - segment.offset:
            raise ElfError(f"{source}: the page that two segments share would not be the same for both")
    for segment in segments:
        if segment.kind == _LOAD:
            segment.alignment = PAGE
        if segment.kind == _RELRO:
            _shorten(source, segment, loads)
    struct.pack_into("<Q", data, 40, table)
    for i, segment in enumerate(segments):
        struct.pack_into(_PROGRAM_HEADER, data, struct.unpack_from("<Q", data, 32)[0] + 56 * i, *dataclasses.astuple(segment))
    for i, section in enumerate(sections):
        struct.pack_into(_SECTION_HEADER, data, table + 64 * i, *section)
    pathlib.Path(target).write_bytes(data)


def _shorten(source, relro, loads):
    """What is read-only after loading must not reach into a page of what stays writable."""
    if relro.address % PAGE:
        raise ElfError(f"{source}: what becomes read-only begins inside a page")
    behind = [segment.address for segment in loads if segment.address > relro.address]
    end = -(-relro.end // PAGE) * PAGE
    if behind and end > min(behind) // PAGE * PAGE:
        relro.memory_size = min(behind) // PAGE * PAGE - relro.address
        relro.file_size = min(relro.file_size, relro.memory_size)


def _read(path):
    data = pathlib.Path(path).read_bytes()
    if data[:5] != b"\x7fELF\x02":
        raise ElfError(f"{path} is no ELF file of 64 bits")
    return data


def _segments(data):
    start, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    return [Segment(*struct.unpack_from(_PROGRAM_HEADER, data, start + 56 * i)) for i in range(count)]


def _sections(data):
    start, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    return [list(struct.unpack_from(_SECTION_HEADER, data, start + 64 * i)) for i in range(count)]


def _dynamic(data, segment):
    for at in range(segment.offset, segment.offset + segment.file_size, 16):
        tag, value = struct.unpack_from("<QQ", data, at)
        if tag == 0:
            return
        yield tag, value


def _offset(segments, address):
    [offset] = [s.offset + address - s.address for s in segments if s.kind == _LOAD and 0 <= address - s.address < s.file_size]
    return offset


def _text(data, at):
    return bytes(data[at : data.index(b"\0", at)]).decode()
