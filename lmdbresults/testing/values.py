"""What a store promises about keys, values and counters."""

import math
from typing import Any

import pytest

from lmdbresults.errors import NotACounter
from lmdbresults.store.base import Store
from lmdbresults.testing.hooks import Hooks
from lmdbresults.testing.samples import KEY_LENGTHS, SIZES, sample

__all__ = ["Counters", "Values"]


class Values(Hooks):
    """Storing, reading and deleting."""

    def test_a_missing_key_has_no_value_and_nothing_to_delete_or_expire(self, store: Store) -> None:
        assert store.get(b"key") is None
        assert store.ttl(b"key") is None
        assert store.delete(b"key") is False
        assert store.expire(b"key", 1.0) is False

    def test_set_replaces_a_present_value(self, store: Store) -> None:
        assert store.set(b"key", b"first") is True
        assert store.set(b"key", b"second") is True
        assert store.get(b"key") == b"second"

    @pytest.mark.parametrize("size", SIZES)
    def test_a_value_of_any_size_comes_back_whole(self, store: Store, size: int) -> None:
        store.set(b"key", sample(size))
        value = store.get(b"key")
        assert type(value) is bytes
        assert value == sample(size)

    @pytest.mark.parametrize("size", SIZES)
    def test_a_value_of_any_size_can_be_replaced(self, store: Store, size: int) -> None:
        for value in (sample(size), b"small", sample(size, 1), sample(size, 2)):
            store.set(b"key", value)
            assert store.get(b"key") == value
        assert store.delete(b"key") is True
        assert store.get(b"key") is None

    @pytest.mark.parametrize("length", KEY_LENGTHS)
    def test_keys_of_any_length_are_kept_apart(self, store: Store, length: int) -> None:
        key, longer, other = b"k" * length, b"k" * length + b"a", b"k" * length + b"b"
        store.set(key, b"key", ttl=60.0)
        store.set(longer, b"longer", ttl=60.0)
        store.set(other, b"other")
        assert store.mget([key, longer, other]) == [b"key", b"longer", b"other"]
        assert store.delete(key) is True
        assert store.mget([key, longer, other]) == [None, b"longer", b"other"]

    @pytest.mark.parametrize("length", KEY_LENGTHS)
    def test_large_values_go_with_keys_of_any_length(self, store: Store, length: int) -> None:
        for size in (16300, 16368, 100_000, 0):
            store.set(b"k" * length, sample(size), ttl=60.0)
            assert store.get(b"k" * length) == sample(size)

    def test_keys_and_values_hold_any_bytes(self, store: Store) -> None:
        pairs = {bytes([number]): bytes([number, 0, 255]) for number in range(256)}
        for key, value in pairs.items():
            store.set(key, value)
        assert dict(store.scan()) == pairs

    def test_mget_keeps_the_order_and_returns_none_for_missing_keys(self, store: Store) -> None:
        store.set(b"a", b"1")
        store.set(b"b", b"2")
        assert store.mget(key for key in [b"b", b"no", b"a", b"b"]) == [b"2", None, b"1", b"2"]
        assert store.mget([]) == []

    def test_add_stores_only_if_the_key_has_no_value(self, store: Store) -> None:
        assert store.add(b"key", b"first", ttl=10.0) is True
        assert store.add(b"key", b"second") is False
        assert store.get(b"key") == b"first"
        assert store.ttl(b"key") == self.about(10.0)
        store.delete(b"key")
        assert store.add(b"key", b"third") is True

    def test_a_deleted_key_does_not_exist(self, store: Store) -> None:
        store.set(b"key", b"value", ttl=10.0)
        assert store.delete(b"key") is True
        assert store.delete(b"key") is False
        assert store.get(b"key") is None

    @pytest.mark.parametrize("size", [0, 100, 50_000])
    def test_keep_prefix_keeps_a_value_that_begins_with_it(self, store: Store, size: int) -> None:
        store.set(b"key", b"done" + sample(size), ttl=10.0)
        assert store.set(b"key", b"late", keep_prefix=b"done") is False
        assert store.get(b"key") == b"done" + sample(size)
        assert store.ttl(b"key") == self.about(10.0)

    @pytest.mark.parametrize("length", [16_347, 16_348, 20_000, 50_000])
    def test_keep_prefix_is_compared_in_full(self, store: Store, length: int) -> None:
        store.set(b"key", sample(50_000))
        assert store.set(b"key", b"late", keep_prefix=sample(length)) is False
        assert store.set(b"key", b"late", keep_prefix=sample(length)[:-1] + b"\0") is True

    @pytest.mark.parametrize("present", [None, b"", b"don", b"Done!", b" done", sample(50_000)])
    def test_keep_prefix_lets_any_other_value_be_replaced(self, store: Store, present: bytes | None) -> None:
        if present is not None:
            store.set(b"key", present)
        assert store.set(b"key", b"done", keep_prefix=b"done") is True
        assert store.get(b"key") == b"done"


class Counters(Hooks):
    """`Store.incr`."""

    def test_a_counter_starts_at_zero_and_reads_as_decimal(self, store: Store) -> None:
        assert store.incr(b"key") == 1
        assert store.incr(b"key", 41) == 42
        assert store.incr(b"key", -50) == -8
        assert store.get(b"key") == b"-8"

    @pytest.mark.parametrize("length", KEY_LENGTHS)
    def test_a_counter_has_a_key_of_any_length(self, store: Store, length: int) -> None:
        assert [store.incr(b"k" * length) for _ in range(3)] == [1, 2, 3]

    @pytest.mark.parametrize("by", [1.5, 2.0, "1"])
    def test_incrementing_by_something_else_than_an_integer_is_a_type_error(self, store: Store, by: Any) -> None:
        store.incr(b"key", 3)
        with pytest.raises(TypeError):
            store.incr(b"key", by)
        with pytest.raises(TypeError):
            store.incr(b"new", by)
        assert store.mget([b"key", b"new"]) == [b"3", None]

    def test_a_decimal_value_can_be_incremented(self, store: Store) -> None:
        store.set(b"key", b"-10")
        assert store.incr(b"key", 3) == -7

    def test_incr_keeps_the_deadline_unless_it_is_given_one(self, store: Store) -> None:
        store.incr(b"key")
        assert store.ttl(b"key") == math.inf
        store.incr(b"key", ttl=10.0 * self.second)
        self.pass_time(4.0 * self.second)
        store.incr(b"key")
        assert store.ttl(b"key") == self.about(6.0 * self.second)
        store.incr(b"key", ttl=None)
        assert store.ttl(b"key") == math.inf

    def test_an_expired_counter_starts_again_without_a_deadline(self, store: Store) -> None:
        store.incr(b"key", 5, ttl=self.second)
        self.pass_time(self.second)
        assert store.incr(b"key") == 1
        assert store.ttl(b"key") == math.inf

    @pytest.mark.parametrize(("limit", "step"), [((1 << 63) - 1, 1), (-(1 << 63), -1)])
    def test_a_counter_cannot_exceed_64_bits(self, store: Store, limit: int, step: int) -> None:
        assert store.incr(b"key", limit) == limit
        with pytest.raises(NotACounter):
            store.incr(b"key", step)
        assert store.get(b"key") == b"%d" % limit
        assert store.incr(b"key", -step) == limit - step

    @pytest.mark.parametrize(("value", "step"), [(1 << 63, -1), (-(1 << 63) - 1, 1)])
    def test_a_number_beyond_64_bits_is_not_a_counter(self, store: Store, value: int, step: int) -> None:
        store.set(b"key", b"%d" % value)
        with pytest.raises(NotACounter):
            store.incr(b"key", step)
        assert store.get(b"key") == b"%d" % value

    @pytest.mark.parametrize(
        "value",
        [b"", b"x", b"1.5", b" 1", b"1\n", b"+1", b"--1", b"-", b"1" * 20, b"1" * 5000, b"\xd9\xa1", b"1" * 50_000],
    )
    def test_a_value_that_is_not_a_counter_is_left_as_it_is(self, store: Store, value: bytes) -> None:
        store.set(b"key", value)
        with pytest.raises(NotACounter):
            store.incr(b"key")
        assert store.get(b"key") == value
