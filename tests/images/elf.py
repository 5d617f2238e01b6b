"""Shared libraries that stand in for ones that are never called, so that gigabytes need not be in an image.

The published torch wheel for x86-64 Linux is linked against NVIDIA's libraries. Without a GPU nothing calls them,
but the dynamic linker wants each file, and wants an address for those functions whose address torch takes. A
stand-in defines them: each returns 1, which is an error code in every one of these interfaces.

Layout of the format: elf(5), https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html
"""

import itertools
import mmap
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")
_IDENTITY = b"\x7fELF\x02\x01\x01" + bytes(9)  # 64 bit, little endian, System V
_SHT_STRTAB, _SHT_DYNSYM = 3, 11
_ET_DYN, _EM_X86_64 = 3, 62
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_READ, _WRITE, _EXECUTE = 4, 2, 1
_DT_NULL, _DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB = 0, 1, 4, 5, 6
_DT_STRSZ, _DT_SYMENT, _DT_SONAME, _DT_RUNPATH = 10, 11, 14, 29
_GLOBAL_FUNCTION = 1 << 4 | 2
_RETURN_ONE = b"\xb8\x01\x00\x00\x00\xc3"  # mov eax, 1; ret


def undefined_symbols(library: Path) -> Iterator[str]:
    """Yield the names that a 64-bit shared library expects others to define.

    Raises:
        ValueError: the file is not a 64-bit little-endian ELF file.
    """
    with library.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:6] != _IDENTITY[:6]:
            raise ValueError(f"{library} is not a 64-bit ELF file")
        sections = list(_sections(data))
        for kind, offset, size, link in sections:
            if kind == _SHT_DYNSYM:
                names = sections[link][1]
                yield from _undefined(data[offset : offset + size], data, names)


def _sections(data: mmap.mmap) -> Iterator[tuple[int, int, int, int]]:
    """Yield type, offset, size and linked section of every section."""
    header = _HEADER.unpack_from(data)
    start, size, count = header[6], header[11], header[12]
    for index in range(count):
        fields = _SECTION.unpack_from(data, start + index * size)
        yield fields[1], fields[4], fields[5], fields[6]


def _undefined(table: bytes, data: mmap.mmap, names: int) -> Iterator[str]:
    for name, _, _, section, _, _ in _SYMBOL.iter_unpack(table):
        if section == 0 and name:
            begin = names + name
            yield data[begin : data.find(b"\0", begin)].decode()


def shared_library(soname: str, symbols: Iterable[str] = (), needed: str = "") -> bytes:
    """Return an x86-64 shared library called `soname`.

    Args:
        soname: the name it is linked by.
        symbols: functions to define; each returns 1. They carry no version, and the linker refuses an unversioned
            definition in the very file that a version is asked of: define them in another library that this one needs.
        needed: the name of one library in the same folder that is loaded with it.
    """
    names = sorted(set(symbols))
    texts = [soname, needed, "$ORIGIN", *names]
    strings = b"\0" + b"".join(text.encode() + b"\0" for text in texts)
    starts = list(itertools.accumulate((len(text.encode()) + 1 for text in texts), initial=1))
    code = _HEADER.size + 3 * _PROGRAM.size
    table = _hash_table(len(names) + 1)
    entries = bytes(_SYMBOL.size) + b"".join(_function(start, code) for start in starts[3:-1])
    hashes = _aligned(code + len(_RETURN_ONE))
    symbol_table = _aligned(hashes + len(table))
    string_table = symbol_table + len(entries)
    dynamic = _aligned(string_table + len(strings))
    links = {_DT_NEEDED: starts[1], _DT_RUNPATH: starts[2]} if needed else {}
    tags = links | {
        _DT_SONAME: starts[0],
        _DT_HASH: hashes,
        _DT_SYMTAB: symbol_table,
        _DT_SYMENT: _SYMBOL.size,
        _DT_STRTAB: string_table,
        _DT_STRSZ: len(strings),
        _DT_NULL: 0,
    }
    tail = b"".join(_DYNAMIC.pack(*tag) for tag in tags.items())
    parts = {0: _headers(dynamic, len(tail)), code: _RETURN_ONE, hashes: table, symbol_table: entries}
    return _assemble(parts | {string_table: strings, dynamic: tail})


def _aligned(offset: int) -> int:
    return (offset + 15) // 16 * 16


def _headers(dynamic: int, length: int) -> bytes:
    total = dynamic + length
    header = _HEADER.pack(
        _IDENTITY, _ET_DYN, _EM_X86_64, 1, 0, _HEADER.size, 0, 0, _HEADER.size, _PROGRAM.size, 3, 0, 0, 0
    )
    # One segment for everything; the linker writes into the dynamic section.
    everything = _PROGRAM.pack(_PT_LOAD, _READ | _WRITE | _EXECUTE, 0, 0, 0, total, total, 0x1000)
    linking = _PROGRAM.pack(_PT_DYNAMIC, _READ | _WRITE, dynamic, dynamic, dynamic, length, length, 8)
    return header + everything + linking + _PROGRAM.pack(_PT_GNU_STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16)


def _hash_table(symbols: int) -> bytes:
    """Return a hash table of one bucket: a chain through every symbol. Slow to search and simple to write."""
    chain = [0, *(index + 1 for index in range(1, symbols - 1)), 0][:symbols]
    return struct.pack(f"<III{symbols}I", 1, symbols, min(1, symbols - 1), *chain)


def _function(name: int, code: int) -> bytes:
    return _SYMBOL.pack(name, _GLOBAL_FUNCTION, 0, 1, code, len(_RETURN_ONE))


def _assemble(parts: dict[int, bytes]) -> bytes:
    result = bytearray()
    for offset in sorted(parts):
        result += bytes(offset - len(result)) + parts[offset]
    return bytes(result)
