"""Damage to a file that no process has open, and files of other programs."""

import random
import sqlite3
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb

from lmdbresults import open_store
from lmdbresults.store.lmdb.file.btree import IN_USE, LEAF_IN_USE, survey
from lmdbresults.store.lmdb.file.pages import PageFile

__all__ = ["DAMAGES", "KEYS", "NAMES", "Base", "make_base", "other_formats", "value_of"]

PAGE = 4096
KEYS = [b"key %04d" % number for number in range(400)] + [b"k" * 600 + b"%d" % number for number in range(5)]
KEYS += [b"large %d" % number for number in range(8)]


def value_of(key: bytes, version: int) -> bytes:
    """What the store of these tests holds under a key: once (0), and in the end (1)."""
    body = b"%b version %d " % (key, version)
    return body * (1000 if key.startswith(b"large") else 1 + len(body) % 7)


class Base(NamedTuple):
    """Files to damage, sound and closed."""

    final: bytes
    """The data file."""
    earlier: bytes
    """The same file, when every value was an older one."""
    other: bytes
    """The file of another store, with other keys."""
    sidecar: bytes
    used: list[int]
    """Numbers of the pages in use, but for the meta pages."""


def make_base(folder: Path) -> Base:
    path, other = folder / "base.lmdb", folder / "other.lmdb"
    earlier = b""
    for version in (0, 1):
        with open_store(path) as store:
            for part in range(10):  # in few commits, as with many at once
                with store.write() as txn:
                    for key in KEYS[part::10]:
                        txn.set(key, value_of(key, version), ttl=3600 if len(key) % 2 else None)
        earlier, final = (content(path), b"") if version == 0 else (earlier, content(path))
    with open_store(other) as store:
        for number in range(400):
            store.set(b"not ours %d" % number, b"of another file" * 5)
    return Base(final, earlier, content(other), Path(f"{path}-checkpoint").read_bytes(), pages_in_use(path))


def pages_in_use(path: Path) -> list[int]:
    with PageFile(str(path)) as pages:
        state = pages.states()[0]
        marks = bytearray(state.last_page + 1)
        assert list(survey(pages, state, marks)) == []
        return [number for number, mark in enumerate(marks) if mark in (IN_USE, LEAF_IN_USE) and number > 1]


def content(path: Path) -> bytes:
    """The pages in use, without what is allocated ahead."""
    with PageFile(str(path)) as pages:
        return path.read_bytes()[: (pages.states()[0].last_page + 1) * PAGE]


# -- damage ------------------------------------------------------------------------------------------------------------

Damage = Callable[[random.Random, Base, bytearray], object]


def some_page(chance: random.Random, base: Base, end: int) -> int:
    """Where a page begins: one in use, mostly; damage to the others does nothing."""
    number = chance.choice(base.used) if chance.random() < 0.9 else chance.randrange(2, len(base.final) // PAGE)
    return PAGE * (number if number < end // PAGE else chance.randrange(2, end // PAGE))


def cut(chance: random.Random, base: Base, data: bytearray) -> None:
    del data[chance.choice([chance.randrange(len(data)), some_page(chance, base, len(data))]) :]


def flip_bits(chance: random.Random, base: Base, data: bytearray) -> None:
    for _ in range(chance.choice([1, 1, 8])):
        data[some_page(chance, base, len(data)) + chance.randrange(PAGE)] ^= 1 << chance.randrange(8)


def flip_bits_of_heads(chance: random.Random, base: Base, data: bytearray) -> None:
    for _ in range(chance.choice([1, 1, 8])):
        data[some_page(chance, base, len(data)) + chance.randrange(40)] ^= 1 << chance.randrange(8)


def flip_bits_of_metas(chance: random.Random, base: Base, data: bytearray) -> None:
    for _ in range(chance.choice([1, 1, 8])):
        data[chance.choice([0, PAGE]) + chance.randrange(152)] ^= 1 << chance.randrange(8)


def zero_pages(chance: random.Random, base: Base, data: bytearray) -> None:
    for _ in range(chance.choice([1, 1, 3])):
        at = some_page(chance, base, len(data))
        data[at : at + PAGE] = bytes(PAGE)


def fill_pages_at_random(chance: random.Random, base: Base, data: bytearray) -> None:
    at = some_page(chance, base, len(data))
    data[at : at + PAGE] = chance.randbytes(PAGE)


def tear_a_page(chance: random.Random, base: Base, data: bytearray) -> None:
    at, torn = some_page(chance, base, len(base.earlier)), 512 * chance.randrange(1, 8)
    data[at : at + torn] = base.earlier[at : at + torn]


def swap_pages(chance: random.Random, base: Base, data: bytearray) -> None:
    one, two = some_page(chance, base, len(data)), some_page(chance, base, len(data))
    data[one : one + PAGE], data[two : two + PAGE] = data[two : two + PAGE], data[one : one + PAGE]


def bring_back_a_page(chance: random.Random, base: Base, data: bytearray) -> None:
    at = some_page(chance, base, len(base.earlier))
    data[at : at + PAGE] = base.earlier[at : at + PAGE]


def take_a_page_of_another_file(chance: random.Random, base: Base, data: bytearray) -> None:
    at = some_page(chance, base, len(base.other))
    data[at : at + PAGE] = base.other[at : at + PAGE]


DAMAGES: dict[str, Damage] = {
    "truncated": cut,
    "bits flipped anywhere": flip_bits,
    "bits flipped in page headers": flip_bits_of_heads,
    "bits flipped in meta pages": flip_bits_of_metas,
    "pages zeroed": zero_pages,
    "a page of random bytes": fill_pages_at_random,
    "two pages swapped": swap_pages,
    "a torn page": tear_a_page,
    "a stale page": bring_back_a_page,
    "a page of another store": take_a_page_of_another_file,
}


def other_formats(folder: Path) -> Iterator[bytes]:
    """Files of other kinds."""
    yield from (
        b"x",
        b"\n" * 5000,
        b"{}" * 5000,
        bytes(4096),
        bytes(1 << 20),
        b"\xff" * 10_000,
        random.Random(1).randbytes(99_999),
    )
    yield b"\x7fELF" + bytes(20_000)
    with sqlite3.connect(folder / "sqlite") as connection:
        connection.execute("create table results (id, value)")
    yield (folder / "sqlite").read_bytes()
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("results", b"results" * 2000)
    yield (folder / "zip").read_bytes()
    with lmdb.open(str(folder / "foreign"), subdir=False, lock=False) as handle, handle.begin(write=True) as txn:
        txn.put(b"key 0001", b"of another program")
    yield (folder / "foreign").read_bytes()
    for magic, version in ((0xBEEFC0DE, 999), (0xBEEFC0DE, 2), (0xDEC0EFBE, 1)):
        yield bytes(16) + struct.pack("=II", magic, version) + bytes(8200)


NAMES = [b"new\nline", b"x" * 243, b"caf\xe9", b"100%", b"%41%00", b"a b  c ", b"-rf", b"?mode=0660", b"quote'\"`$(id)"]
NAMES += [b"lmdb:", b"\xf0\x9f\x92\xbe", b"\x01\x1b[31m", b".hidden", b"...", b"results.lmdb-lock.db"]
