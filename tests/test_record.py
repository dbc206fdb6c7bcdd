"""The bytes of a task record: those of older versions are read, and any other bytes raise our errors."""

import ast
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdbresults.errors import DecodeError, EncodeError, NewerFormat, ResultError
from lmdbresults.record import (
    RECORD_VERSION,
    SUCCESS_PREFIX,
    Payload,
    TaskRecord,
    pack_payload,
    read_meta,
    unpack_payload,
)

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*-[0-9]-*.hex"))
RECORDS = [path for path in GOLDEN if path.name.startswith("record-")]
PAYLOADS = [path for path in GOLDEN if path.name.startswith("payload-")]

#: Any text, also with lone surrogates, which stand for bytes that are not UTF-8.
texts = st.text(st.characters(exclude_categories=()), max_size=20)
some_texts = st.none() | texts
plain = st.recursive(st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | texts, st.lists, max_leaves=5)
payloads = st.builds(Payload, texts, texts, some_texts, st.binary(), st.none() | st.binary())
records = st.builds(
    TaskRecord,
    version=st.just(RECORD_VERSION),
    state=texts,
    date_done=some_texts,
    name=some_texts,
    worker=some_texts,
    queue=some_texts,
    retries=st.none() | st.integers(-(1 << 63), (1 << 64) - 1),
    group_id=some_texts,
    parent_id=some_texts,
    children=st.none() | st.lists(plain, max_size=3),
    traceback=some_texts,
    payload=payloads,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | texts | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
)

PAYLOAD = Payload("application/json", "utf-8", None, b"1")
RECORD = TaskRecord(RECORD_VERSION, "SUCCESS", None, None, None, None, None, None, None, None, None, PAYLOAD)


def name_of(path: Path) -> str:
    return path.stem


def bytes_of(path: Path) -> bytes:
    return bytes.fromhex(path.read_text())


def described(path: Path) -> dict[str, Any]:
    return ast.literal_eval(path.with_suffix(".txt").read_text())


# -- golden bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDS, ids=name_of)
def test_a_record_of_any_version_is_read(path: Path):
    fields = described(path)
    assert TaskRecord.unpack(bytes_of(path)) == TaskRecord(**{**fields, "payload": Payload(**fields["payload"])})


@pytest.mark.parametrize("path", PAYLOADS, ids=name_of)
def test_a_payload_of_any_version_is_read(path: Path):
    assert unpack_payload(bytes_of(path)) == Payload(**described(path))


@pytest.mark.parametrize("path", [path for path in GOLDEN if f"-{RECORD_VERSION}-" in path.name], ids=name_of)
def test_this_version_writes_the_golden_bytes(path: Path):
    data = bytes_of(path)
    assert (TaskRecord.unpack(data).pack() if path in RECORDS else pack_payload(unpack_payload(data))) == data


def test_golden_bytes_of_every_version_exist():
    for version in range(1, RECORD_VERSION + 1):
        for kind in ("record", "payload"):
            assert any(path.name.startswith(f"{kind}-{version}-") for path in GOLDEN)


# -- there and back ------------------------------------------------------------------------------------------------


@given(records)
def test_a_record_comes_back_as_it_was(record: TaskRecord):
    assert TaskRecord.unpack(record.pack()) == record


@given(payloads)
def test_a_payload_comes_back_as_it_was(payload: Payload):
    assert unpack_payload(pack_payload(payload)) == payload


def test_tuples_of_children_come_back_as_lists():
    children = [(("id", None), None), (("group", (("parent", None), None)), [(("child", None), None)])]
    record = TaskRecord.unpack(RECORD._replace(children=children).pack())
    assert record.children == [[["id", None], None], [["group", [["parent", None], None]], [[["child", None], None]]]]


def test_ids_and_names_of_other_types_are_stored_as_text():
    class Translated:
        def __str__(self) -> str:
            return "sp\u00e4ter"

    record = RECORD._replace(group_id=uuid.UUID(int=1), name=Translated())
    assert TaskRecord.unpack(record.pack())[3:8] == ("sp\u00e4ter", None, None, None, str(uuid.UUID(int=1)))


@pytest.mark.parametrize("state", ["SUCCESS", "FAIL\udce9"])
def test_a_number_beyond_64_bits_is_refused(state: str):
    with pytest.raises(EncodeError):
        RECORD._replace(state=state, retries=1 << 64).pack()


@pytest.mark.parametrize("state", ["SUCCESS", "FAIL\udce9"])
def test_children_that_contain_themselves_are_refused(state: str):
    children: list[Any] = []
    children.append(children)
    with pytest.raises(EncodeError):
        RECORD._replace(state=state, children=children).pack()


def test_a_meta_comes_back_from_its_record():
    def encode(result: object, rest: object) -> Payload:
        return Payload("", "", None, repr(result).encode(), repr(rest).encode() if rest else None)

    def decode(payload: Sequence[Any]) -> Any:
        return ast.literal_eval(payload[3].decode())

    meta = {"status": "FAILURE", "result": [1], "traceback": "tb", "children": [], "date_done": "today"}
    ids = {"group_id": "g", "parent_id": "p"}
    extended = {"name": "n", "worker": "w", "queue": "q", "retries": 2, "args": [3], "kwargs": {}}
    for whole in (meta, meta | ids, meta | extended, meta | ids | extended):
        assert read_meta(TaskRecord.from_meta(whole, encode).pack(), decode) == whole


# -- bytes that are not a record ------------------------------------------------------------------------------------


def read_as_anything(data: bytes) -> None:
    """Read bytes as a record and as a payload. Only our errors may be raised."""
    for read in (TaskRecord.unpack, unpack_payload):
        try:
            found = read(data)
        except ResultError:
            continue
        assert type(found) in (TaskRecord, Payload)


@given(st.binary())
def test_arbitrary_bytes_raise_nothing_but_our_errors(data: bytes):
    read_as_anything(data)


@given(anything)
def test_arbitrary_msgpack_raises_nothing_but_our_errors(value: object):
    read_as_anything(msgpack.packb(value, unicode_errors="surrogatepass"))


@given(st.lists(anything, min_size=1, max_size=13), st.integers(0, 12))
def test_bytes_that_are_almost_a_record_raise_nothing_but_our_errors(fields: list[Any], kept: int):
    almost = [*list(RECORD)[:kept], *fields, list(PAYLOAD)]
    read_as_anything(msgpack.packb(almost, unicode_errors="surrogatepass"))
    read_as_anything(msgpack.packb([RECORD_VERSION, fields], unicode_errors="surrogatepass"))


@pytest.mark.parametrize("path", GOLDEN, ids=name_of)
def test_a_damaged_record_raises_nothing_but_our_errors(path: Path):
    data = bytes_of(path)
    for position in range(len(data)):
        read_as_anything(data[:position])
        read_as_anything(data + data[:position])
        for value in (0x00, 0x7F, 0x80, 0xC1, 0xC7, 0xD4, 0xDD, 0xFF):
            read_as_anything(data[:position] + bytes([value]) + data[position + 1 :])


@pytest.mark.parametrize(
    "fields",
    [
        [],
        None,
        {"version": 1},
        [None],
        ["1", *RECORD[1:]],
        [True, *RECORD[1:]],
        [0, *RECORD[1:]],
        [-1, *RECORD[1:]],
        [1.0, *RECORD[1:]],
        RECORD[:-1],
        [*RECORD, None],
        RECORD._replace(state=None),
        RECORD._replace(state=b"SUCCESS"),
        RECORD._replace(payload=None),
        RECORD._replace(payload=PAYLOAD[:3]),
        RECORD._replace(payload=[*PAYLOAD, None]),
        RECORD._replace(payload=PAYLOAD._replace(body="1")),
        RECORD._replace(payload=PAYLOAD._replace(extra="1")),
        RECORD._replace(payload=PAYLOAD._replace(compression=1)),
        RECORD._replace(payload=PAYLOAD._replace(content_type=None)),
        RECORD._replace(payload=PAYLOAD._replace(content_encoding=b"utf-8")),
    ],
)
def test_msgpack_that_is_not_a_record_raises_a_decode_error(fields: object):
    with pytest.raises(DecodeError, match=r"not a record|not a task record|not a payload"):
        TaskRecord.unpack(msgpack.packb(fields))


@pytest.mark.parametrize("read", [TaskRecord.unpack, unpack_payload])
def test_a_record_of_a_newer_version_raises_an_error_that_says_upgrade(read):
    for rest in (RECORD[1:], [PAYLOAD], [], ["whatever", "comes", "then"]):
        with pytest.raises(NewerFormat, match=rf"version {RECORD_VERSION + 1}.*up to {RECORD_VERSION}: upgrade"):
            read(msgpack.packb([RECORD_VERSION + 1, *rest]))


# -- the prefix of a success ---------------------------------------------------------------------------------------


@given(records)
def test_the_success_prefix_matches_success_only(record: TaskRecord):
    assert record._replace(state="SUCCESS").pack().startswith(SUCCESS_PREFIX)
    assert record.pack().startswith(SUCCESS_PREFIX) is (record.state == "SUCCESS")


@pytest.mark.parametrize("state", ["FAILURE", "SUCCES", "SUCCESSFUL", "success", "SUCCESS\0", "", "S" * 40])
def test_the_success_prefix_does_not_match_similar_states(state: str):
    assert not RECORD._replace(state=state).pack().startswith(SUCCESS_PREFIX)
