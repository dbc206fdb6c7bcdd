"""Messages quote a key, but not a whole screen of it."""

from pathlib import Path

import pytest

from lmdbresults import open_store
from lmdbresults.errors import NotACounter
from lmdbresults.store.quoting import quoted
from lmdbresults.testing import MemoryStore

ID = b"celery-task-meta-0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize("key", [b"", ID, b"\xff\0'", b"k" * 97])
def test_a_short_key_is_quoted_as_it_is(key: bytes) -> None:
    assert quoted(key) == repr(key)


@pytest.mark.parametrize("key", [b"k" * 98, b"\xff" * 26, ID * 1000])
def test_a_long_key_is_quoted_by_its_two_ends_and_its_length(key: bytes) -> None:
    assert quoted(key) == f"{repr(key)[:70]}...{repr(key)[-30:]} ({len(key)} bytes)"


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_an_error_about_a_long_key_is_short(tmp_path: Path, kind: str) -> None:
    key = ID * 10_000
    with open_store(tmp_path / "r.lmdb", durability="none") if kind == "file" else MemoryStore() as store:
        store.set(key, b"no number")
        with pytest.raises(NotACounter, match=rf"\.\.\..*\({len(key)} bytes\)") as caught:
            store.incr(key)
        assert len(str(caught.value)) < 250
