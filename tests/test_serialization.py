"""Payloads of every serializer and compression: the same bytes as Celery's, and damaged bytes raise our errors."""

import builtins
import json
import math
import uuid
from collections import OrderedDict, namedtuple
from contextlib import suppress
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdbresults import serialization
from lmdbresults.errors import ContentDisallowed, DecodeError, EncodeError, UnknownSerializer
from lmdbresults.record import Payload
from lmdbresults.serialization import dumps, loads

SERIALIZERS = list(serialization.serializers())
COMPRESSIONS = [None, *serialization.compressions()]
SAFE = [name for name in SERIALIZERS if name != "pickle"]

Point = namedtuple("Point", "x y")
EVENING = datetime(2024, 5, 17, 21, 30, 0, 123456)

#: What json gives back as it was, with the types that JSON itself lacks.
JSON_VALUES = [
    None,
    True,
    0,
    -(1 << 80),
    1.5,
    "",
    "\u20ac \U0001f600 \x00",
    [],
    [1, [2, [3]]],
    {"a": {"b": None}},
    {"__type__": "only half of an envelope"},
    EVENING,
    EVENING.replace(tzinfo=timezone.utc),
    EVENING.replace(tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    EVENING.date(),
    EVENING.time(),
    time(1, 2, tzinfo=timezone.utc),
    Decimal("1.10"),
    Decimal("-Infinity"),
    uuid.UUID("5b1ef6ab-6f1d-4f8b-8f5c-4c8a52f4a7a1"),
    b"text",
    b"\xff\x00",
    b"",
    {"deep": [EVENING, {"in": [b"\xff", Decimal(1)]}]},
]

leaves = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.text()
rich = (
    leaves
    | st.binary()
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes()
    | st.datetimes(timezones=st.just(timezone.utc))
)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(inner, lambda some: st.lists(some) | st.dictionaries(st.text(), some), max_leaves=10)


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", JSON_VALUES, ids=repr)
def test_json_gives_back_the_same_value_of_the_same_type(value: Any):
    found = loads(dumps(value))
    assert found == value
    assert type(found) is type(value)


def test_json_keeps_the_offset_of_a_time():
    value = EVENING.replace(tzinfo=timezone(timedelta(hours=5, minutes=45)))
    assert loads(dumps(value)).utcoffset() == timedelta(hours=5, minutes=45)


def test_json_uses_the_json_method_of_a_value():
    class Money:
        def __json__(self) -> dict[str, Any]:
            return {"amount": Decimal("1.10")}

    assert loads(dumps([Money()])) == [{"amount": Decimal("1.10")}]


def test_json_handles_the_json_types():
    assert math.isnan(loads(dumps(math.nan)))
    assert loads(dumps((Point(1, 2), OrderedDict(a=1)))) == [[1, 2], {"a": 1}]
    assert loads(dumps({2: "int", None: "none", True: "bool"})) == {"2": "int", "null": "none", "true": "bool"}


LONG = "x" * 10_000


@pytest.mark.parametrize(
    "text", [LONG, LONG + '"', '"' + LONG, LONG + "\\", LONG + "\n", LONG + "\u20ac", LONG + "\U0001f600"]
)
def test_a_long_text_comes_back_from_json(text: str):
    assert loads(dumps(text)) == text
    assert loads(dumps([text, {"text": text}])) == [text, {"text": text}]
    assert loads(Payload("application/json", "utf-8", None, json.dumps(text, ensure_ascii=False).encode())) == text


@pytest.mark.parametrize("body", [f'"{LONG}', f'"{LONG}" "', f'"{LONG}"x', f'"{LONG}" "{LONG}"', f'"{LONG}\\"'])
def test_a_long_body_that_is_not_one_text_is_not_valid_json(body: str):
    with pytest.raises(DecodeError, match="application/json"):
        loads(Payload("application/json", "utf-8", None, body.encode()))


@given(nested(rich))
def test_any_value_comes_back_from_json(value: Any):
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(value=nested(leaves | st.binary()))
def test_any_plain_value_comes_back_from_every_serializer_and_compression(
    serializer: str, compression: str | None, value: Any
):
    assert loads(dumps(value, serializer, compression), SERIALIZERS) == value


@pytest.mark.parametrize("serializer", ["msgpack", "yaml", "pickle"])
def test_keys_need_not_be_text(serializer: str):
    if serializer not in SERIALIZERS:
        pytest.skip(f"{serializer} is not installed")
    assert loads(dumps({1: "a", 2: {3: None}}, serializer), SERIALIZERS) == {1: "a", 2: {3: None}}


def test_pickle_gives_back_objects():
    assert loads(dumps(Point(1, {2}), "pickle"), ["pickle"]) == Point(1, {2})


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_compression_makes_a_payload_smaller_and_names_itself(compression: str):
    payload = dumps("x" * 10_000, compression=compression)
    assert payload.compression == serialization.compressions()[compression].content_type
    assert len(payload.body) < 1000
    assert loads(payload) == "x" * 10_000


# -- the same on the wire as Celery's ----------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_celery_and_this_package_read_each_others_payloads(serializer: str):
    kombu = pytest.importorskip("kombu.serialization")
    for value in JSON_VALUES if serializer in ("json", "pickle") else [1, "\u20ac", [None, {"a": b"\xff"}], 1.5]:
        ours = dumps(value, serializer)
        theirs = Payload(*kombu.dumps(value, serializer)[:2], None, kombu.dumps(value, serializer)[2])
        assert ours[:2] == theirs[:2]
        assert kombu.loads(ours.body, ours.content_type, ours.content_encoding, accept=[ours.content_type]) == value
        body = theirs.body.encode() if isinstance(theirs.body, str) else theirs.body
        assert loads(theirs._replace(body=body), [serializer]) == value


@given(nested(rich))
def test_json_has_the_same_bytes_as_celerys(value: Any):
    kombu = pytest.importorskip("kombu.utils.json")
    assert dumps(value).body.decode() == kombu.dumps(value)
    assert kombu.loads(dumps(value).body) == value


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_celery_decompresses_our_payloads(compression: str):
    kombu = pytest.importorskip("kombu.compression")
    payload = dumps("x" * 1000, compression=compression)
    assert kombu.decompress(payload.body, payload.compression) == dumps("x" * 1000).body
    assert kombu.compress(b"", compression)[1] == payload.compression


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_pickle_is_decoded_only_if_it_is_accepted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(builtins, "armed", False, raising=False)
    body = b"cbuiltins\nsetattr\n(cbuiltins\n__import__\n(S'builtins'\ntRS'armed'\nI01\ntR."
    payload = dumps(None, "pickle")._replace(body=body)
    for accept in ([], ["json"], ["application/json"], serialization.DEFAULT_ACCEPT):
        with pytest.raises(ContentDisallowed, match=r"application/x-python-serialize.*add it to the accepted content"):
            loads(payload, accept)
    assert builtins.armed is False
    loads(payload, ["pickle"])
    assert builtins.armed == 1  # so it would have gone off


def test_pickle_is_not_accepted_by_default():
    assert "pickle" not in serialization.DEFAULT_ACCEPT
    assert serialization.accepted_types(SERIALIZERS) - serialization.accepted_types(serialization.DEFAULT_ACCEPT) == {
        "application/x-python-serialize"
    }


@pytest.mark.parametrize("accept", [["json"], ["application/json"], ("msgpack", "json"), {"json"}, iter(["json"])])
def test_accepted_content_is_named_by_serializer_or_type_in_any_collection(accept: Any):
    assert loads(dumps([1]), accept) == [1]


def test_a_refusal_lists_the_accepted_types_also_of_an_iterator():
    with pytest.raises(ContentDisallowed, match="only msgpack is accepted"):
        loads(dumps(1), iter(["msgpack"]))


def test_an_unknown_serializer_raises_an_error_that_lists_the_known_ones():
    with pytest.raises(UnknownSerializer, match=r"'jason' is not an installed serializer.*json, msgpack, pickle"):
        dumps(1, "jason")
    with pytest.raises(UnknownSerializer, match=r"'zip' is not an installed compression.*zlib, bzip2, lzma"):
        dumps(1, compression="zip")
    with pytest.raises(UnknownSerializer, match=r"application/x-jason is installed.*json, msgpack"):
        loads(Payload("application/x-jason", "utf-8", None, b""), ["application/x-jason"])
    with pytest.raises(UnknownSerializer, match=r"application/x-zip is installed.*zlib, bzip2"):
        loads(Payload("application/json", "utf-8", "application/x-zip", b""))


class Stubborn:
    def __json__(self) -> Any:
        raise RuntimeError("not me")

    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("value", [Stubborn(), {"deep": [Stubborn()]}], ids=["bare", "deep"])
def test_a_value_that_cannot_be_encoded_raises_an_error_with_its_type_and_a_fix(serializer: str, value: object):
    with pytest.raises(EncodeError) as caught:
        dumps(value, serializer)
    assert f"{serializer} cannot encode this {type(value).__name__}" in str(caught.value)
    assert f"choose another serializer of {', '.join(SERIALIZERS)}" in str(caught.value)


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_value_that_contains_itself_raises_an_encode_error(serializer: str):
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodeError):
        dumps(value, serializer)


# -- damaged bytes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", SAFE)
@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(body=st.binary() | st.text().map(str.encode))
def test_arbitrary_bytes_raise_nothing_but_our_errors(serializer: str, compression: str | None, body: bytes):
    payload = dumps(None, serializer, compression)._replace(body=body)
    with suppress(DecodeError):
        loads(payload)


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_payload_that_was_cut_short_raises_nothing_but_our_errors(serializer: str, compression: str | None):
    payload = dumps({"a": ["b" * 10, 1.5]}, serializer, compression)
    for length in range(len(payload.body)):
        with suppress(DecodeError):
            loads(payload._replace(body=payload.body[:length]), SERIALIZERS)


@pytest.mark.parametrize(
    "body",
    [
        b'{"__type__": "datetime", "__value__": "yesterday"}',
        b'{"__type__": "uuid", "__value__": null}',
        b'{"__type__": "base64", "__value__": "x"}',
        b'{"__type__": "unheard of", "__value__": 1}',
        b'{"__type__": [], "__value__": 1}',
        b"[" * 100_000,
        b"\xff",
    ],
    ids=lambda body: body[:50].decode(errors="replace"),
)
def test_json_with_invalid_tags_raises_a_decode_error(body: bytes):
    with pytest.raises(DecodeError, match="application/json"):
        loads(dumps(1)._replace(body=body))


# -- values that would not come back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", ["msgpack", "yaml"])
@pytest.mark.parametrize("value", [{(1, 2): "edge"}, {"graph": [{(0, (1, 2)): 3.5}]}], ids=repr)
def test_tuples_as_keys_come_back(serializer: str, value: Any):
    assert loads(dumps(value, serializer)) == value


@pytest.mark.parametrize(
    "value",
    [
        {"__type__": "point", "__value__": [1, 2]},
        {"rows": [{"__type__": "datetime", "__value__": "next week"}]},
        [({"__type__": "bytes", "__value__": "text"},)],
    ],
    ids=repr,
)
def test_json_refuses_a_dict_that_it_would_read_as_a_tagged_value(value: Any):
    with pytest.raises(EncodeError, match="__type__ and __value__"):
        dumps(value)


def test_json_accepts_the_tags_as_text_and_beside_other_keys():
    value = {"__type__": "point", "__value__": [EVENING, '"__type__"'], "more": True}
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_a_payload_is_not_decompressed_beyond_the_limit(compression: str):
    payload = dumps("x" * 998, "json", compression)  # 1000 bytes, quotes included
    assert loads(payload, max_bytes=1000) == "x" * 998
    for limit in (0, 99, 999):
        with pytest.raises(DecodeError, match=f"more than {limit} bytes.*max_decoded_bytes"):
            loads(payload, max_bytes=limit)


def test_damaged_compressed_bytes_are_a_decode_error():
    with pytest.raises(DecodeError, match="not valid application/x-gzip"):
        loads(dumps("x", "json", "zlib")._replace(body=b"damaged"))
