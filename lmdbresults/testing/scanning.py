"""What a store promises about reading many records: `Store.scan` and `Store.range`."""

import pytest

from lmdbresults.store.base import Store, WriteTransaction
from lmdbresults.testing.hooks import Hooks
from lmdbresults.testing.samples import sample

__all__ = ["Ranges", "Scans"]


class Scans(Hooks):
    """`Store.scan`, which has no order."""

    def test_scan_yields_every_record_under_a_prefix(self, store: Store) -> None:
        long = b"ab" * 300
        pairs = {b"ab": sample(50_000), b"abc": b"", long: b"long", long + b"c": sample(50_000)}
        others = {b"": b"empty", b"a": b"shorter", b"b": b"later", b"\xff": b"last", b"b" * 600: b"long"}
        for key, value in (pairs | others).items():
            store.set(key, value)
        assert dict(store.scan()) == pairs | others
        assert dict(store.scan(b"ab")) == pairs
        assert dict(store.scan(long)) == {long: b"long", long + b"c": sample(50_000)}
        assert [*store.scan(b"abcd"), *store.scan(long + b"d")] == []

    def test_scan_leaves_out_expired_records(self, store: Store) -> None:
        for key in (b"short", b"long" * 200):
            store.set(key, b"expired", ttl=self.second)
            store.set(key + b"kept", b"kept", ttl=60.0)
        self.pass_time(self.second)
        assert dict(store.scan()) == {b"shortkept": b"kept", b"long" * 200 + b"kept": b"kept"}

    def test_scan_misses_and_repeats_nothing_in_a_large_store(self, store: Store) -> None:
        keys = [b"k%d" % number for number in range(1300)] + [b"k%d" % number * 150 for number in range(700)]
        store.update(lambda txn: [txn.set(key, key[-5:]) for key in keys])
        assert sorted(store.scan(b"k")) == sorted((key, key[-5:]) for key in keys)

    def test_scan_yields_a_record_once_if_it_does_not_change_meanwhile(self, store: Store) -> None:
        kept = [b"k%04d" % number for number in range(0, 1200, 2)]
        store.update(lambda txn: [txn.set(b"k%04d" % number, b"") for number in range(1200)])
        seen = []
        for number, (key, _) in enumerate(store.scan()):
            seen.append(key)
            if number % 100 == 0:  # delete behind and ahead, store before and after all others
                store.delete(b"k%04d" % (number + 1))
                store.delete(b"k%04d" % ((number + 601) % 1200))
                store.set(b"a%d" % number, b"")
                store.set(b"z%d" % number, b"")
        assert sorted(key for key in seen if key in kept) == kept

    @pytest.mark.parametrize("head", [0, 1, 100, 16_368, 20_000, 10_000_000])
    def test_scan_with_head_yields_the_first_bytes_of_each_value(self, store: Store, head: int) -> None:
        pairs = {b"empty": b"", b"small": sample(60), b"large": sample(5_000_001), b"long" * 200: sample(50_000)}
        for key, value in pairs.items():
            store.set(key, value)
        assert dict(store.scan(head=head)) == {key: value[:head] for key, value in pairs.items()}


class Ranges(Hooks):
    """`Store.range`, in the order of the keys."""

    def test_range_yields_records_in_the_order_of_their_keys(self, store: Store) -> None:
        keys = [b"k%d" % number for number in range(1300)] + [b"", b"k", b"k\0", b"k\xff\xff", b"j", b"l", b"k" * 400]
        store.update(lambda txn: [txn.set(key, key[-3:]) for key in keys])
        assert list(store.range()) == [(key, key[-3:]) for key in sorted(keys)]
        assert [key for key, _ in store.range(b"k")] == sorted(key for key in keys if key.startswith(b"k"))

    @pytest.mark.parametrize("start", [b"", b"a", b"k2", b"k20", b"k2\0", b"k9", b"l"])
    @pytest.mark.parametrize("limit", [None, 0, 1, 3, 100])
    def test_range_begins_at_a_key_and_ends_at_a_limit(self, store: Store, start: bytes, limit: int | None) -> None:
        keys = [b"a", *(b"k%d" % number for number in range(30)), b"l"]
        store.update(lambda txn: [txn.set(key, b"") for key in keys])
        expected = sorted(key for key in keys if key >= start)
        assert [key for key, _ in store.range(start=start, limit=limit)] == expected[:limit]
        expected = [key for key in expected if key.startswith(b"k")]
        assert [key for key, _ in store.range(b"k", start, limit)] == expected[:limit]

    def test_range_leaves_out_expired_records_and_does_not_count_them(self, store: Store) -> None:
        for number in range(20):
            store.set(b"%02d" % number, b"", ttl=self.second if number % 2 else None)
        self.pass_time(self.second)
        assert [key for key, _ in store.range(limit=4)] == [b"00", b"02", b"04", b"06"]

    def test_range_goes_on_behind_a_key_that_was_deleted(self, store: Store) -> None:
        for number in range(10):
            store.set(b"%d" % number, b"")
        seen: list[bytes] = []
        while pairs := list(store.range(start=seen[-1] + b"\0" if seen else b"", limit=3)):
            seen += [key for key, _ in pairs]
            store.delete(seen[-1])
        assert seen == [b"%d" % number for number in range(10)]

    def test_range_in_a_transaction_sees_its_writes(self, store: Store) -> None:
        store.set(b"2", b"")
        store.set(b"3", b"")

        def first_two(txn: WriteTransaction) -> list[tuple[bytes, bytes]]:
            txn.set(b"1", sample(50_000))
            txn.delete(b"2")
            return list(txn.range(limit=2, head=3))

        assert store.update(first_two) == [(b"1", sample(3)), (b"3", b"")]
