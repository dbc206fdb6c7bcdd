"""What a store promises about chords: `Store.chords`, whichever way it keeps them."""

import math

import pytest

from lmdbresults.process.identity import NO_OWNER
from lmdbresults.store.base import Store
from lmdbresults.store.chords import Claim, Part, PartOutcome, ResultRecord
from lmdbresults.testing.hooks import Hooks

__all__ = ["Chords"]

KEY, CLAIMS = b"chord-1", b"chord-.claims"


def part(number: int, value: bytes = b"value", *, has_failed: bool = False) -> Part:
    return Part(number, f"id{number}", value, has_failed)


def return_part(store: Store, each: Part, size: int | None = None) -> PartOutcome:
    outcome = store.chords.return_part(KEY, each, 60.0, CLAIMS, size=size)
    assert outcome is not None
    return outcome


def complete(store: Store, size: int = 2) -> Claim:
    """Return the claim on a chord that is complete."""
    store.chords.open(KEY, 60.0, size=size, body=b"body", header=b"header")
    claims = [return_part(store, part(number)).claim for number in range(size)]
    assert claims[:-1] == [None] * (size - 1)
    claim = claims[-1]
    assert claim is not None
    return claim


class Chords(Hooks):
    """Parts are counted once, and one claim is given out."""

    def test_the_part_that_completes_a_chord_claims_it(self, store: Store) -> None:
        claim = complete(store, 3)
        assert (claim.key, claim.is_inherited, claim.has_ended) == (KEY, False, False)
        run = store.chords.read_run(claim)
        assert run.parts == [part(number) for number in range(3)]
        assert (run.body, run.header) == (b"body", b"header")

    def test_parts_are_read_in_the_order_of_their_places(self, store: Store) -> None:
        parts = [part(2), Part(None, "b", b""), part(0), Part(None, "a", b""), part(300), part(1)]
        store.chords.open(KEY, 60.0, size=len(parts))
        claim = [return_part(store, each).claim for each in parts][-1]
        assert claim is not None
        assert [each.id for each in store.chords.read_run(claim).parts] == ["id0", "id1", "id2", "id300", "b", "a"]

    def test_a_part_counts_once(self, store: Store) -> None:
        store.chords.open(KEY, 60.0, size=2)
        assert return_part(store, part(0)) == PartOutcome(True, None)
        assert return_part(store, part(0, b"other")) == PartOutcome(False, None)
        claim = return_part(store, part(1)).claim
        assert claim is not None
        assert store.chords.read_run(claim).parts == [part(0), part(1)]

    def test_a_failed_part_is_replaced_by_its_success(self, store: Store) -> None:
        store.chords.open(KEY, 60.0, size=2)
        return_part(store, part(0, b"failure", has_failed=True))
        assert return_part(store, part(0, b"success")).counts is False
        return_part(store, part(0, b"failure", has_failed=True))
        claim = return_part(store, part(1)).claim
        assert claim is not None
        assert store.chords.read_run(claim).parts[0].value == b"success"

    def test_the_result_of_a_part_is_stored_with_it(self, store: Store) -> None:
        store.set(b"kept", b"done early")
        for key in (b"new", b"kept"):
            result = ResultRecord(key, b"late", 10.0, b"done")
            store.chords.return_part(KEY, part(len(key)), 60.0, CLAIMS, size=5, result=result)
        assert store.mget([b"new", b"kept"]) == [b"late", b"done early"]
        assert store.ttl(b"new") == self.about(10.0)

    def test_a_part_of_an_unknown_chord_is_reported_and_its_result_stored(self, store: Store) -> None:
        result = ResultRecord(b"result", b"value", None)
        assert store.chords.return_part(KEY, part(0), 60.0, CLAIMS, result=result) is None
        assert dict(store.scan()) == {b"result": b"value"}

    def test_a_size_that_comes_with_a_part_opens_the_chord(self, store: Store) -> None:
        assert return_part(store, part(0), size=2).claim is None
        assert return_part(store, part(1), size=2).claim is not None

    def test_a_size_that_is_set_late_completes_the_chord(self, store: Store) -> None:
        store.chords.open(KEY, 60.0)
        assert [return_part(store, part(number)).claim for number in range(2)] == [None, None]
        assert store.chords.set_size(KEY, 3, 60.0, CLAIMS) is None
        assert store.chords.set_size(KEY, 2, 60.0, CLAIMS, at_least=True) is None
        assert store.chords.set_size(KEY, 2, 60.0, CLAIMS) is not None

    def test_an_addition_is_waited_for_and_comes_last(self, store: Store) -> None:
        store.chords.open(KEY, 60.0, size=1)
        assert store.chords.add_more(KEY, "more", 2, 60.0) is True
        assert store.chords.add_more(KEY, "more", 1, 60.0) is True  # the last count holds
        assert return_part(store, Part(0, "more", b"")).claim is None
        claim = return_part(store, Part(1, "first", b"")).claim
        assert claim is not None
        assert [each.id for each in store.chords.read_run(claim).parts] == ["first", "more"]
        assert store.chords.add_more(KEY, "late", 1, 60.0) is False

    def test_a_late_part_of_a_claimed_or_ended_chord_does_not_count(self, store: Store) -> None:
        claim = complete(store)
        assert return_part(store, part(5)) == PartOutcome(False, None)
        store.chords.end(claim, 60.0, CLAIMS, store.chords.read_run(claim).names, is_last=True)
        assert return_part(store, part(5), size=1) == PartOutcome(False, None)

    def test_an_ended_chord_leaves_its_head_until_that_expires(self, store: Store) -> None:
        claim = complete(store)
        assert store.chords.has_ended(KEY) is False
        names = store.chords.read_run(claim).names
        assert store.chords.end(claim, 10.0 * self.second, CLAIMS, names[:1], is_last=False) is True
        assert store.chords.leftovers(claim) != []
        assert store.chords.end(claim, 10.0 * self.second, CLAIMS, names[1:], is_last=True) is True
        assert store.chords.leftovers(claim) == []
        assert store.chords.has_ended(KEY) is True
        self.pass_time(10.0 * self.second)
        assert store.chords.has_ended(KEY) is False
        assert list(store.scan()) == []

    def test_a_released_claim_is_an_orphan_and_can_be_taken_over_once(self, store: Store) -> None:
        claim = complete(store)
        assert store.chords.orphans(CLAIMS) == []
        assert store.chords.take_over(KEY, CLAIMS) is None
        store.chords.release(claim)
        assert store.chords.orphans(CLAIMS) == [KEY]
        inherited = store.chords.take_over(KEY, CLAIMS)
        assert inherited is not None
        assert (inherited.is_inherited, inherited.has_ended) == (True, False)
        assert store.chords.take_over(KEY, CLAIMS) is None
        assert store.chords.end(claim, 60.0, CLAIMS, [], is_last=True) is False
        assert store.chords.end(inherited, 60.0, CLAIMS, [], is_last=True) is True
        assert store.chords.orphans(CLAIMS) == []

    def test_a_part_takes_over_an_orphaned_claim(self, store: Store) -> None:
        store.chords.release(complete(store))
        outcome = return_part(store, part(0))
        assert outcome.counts is False
        assert outcome.claim is not None
        assert outcome.claim.is_inherited is True

    def test_a_claim_that_was_orphaned_after_the_end_has_only_to_be_cleared(self, store: Store) -> None:
        claim = complete(store)
        store.chords.end(claim, 60.0, CLAIMS, [], is_last=False)
        store.chords.release(claim)
        inherited = store.chords.take_over(KEY, CLAIMS)
        assert inherited is not None
        assert inherited.has_ended is True

    def test_opening_a_chord_again_starts_a_new_run(self, store: Store) -> None:
        store.chords.open(KEY, 60.0, size=2)
        return_part(store, part(0))
        store.chords.open(KEY, 60.0, size=1)
        claim = return_part(store, part(1)).claim
        assert claim is not None
        assert store.chords.read_run(claim).parts == [part(1)]

    def test_records_of_a_replaced_run_can_be_cleared(self, store: Store) -> None:
        claim = complete(store)
        names = store.chords.read_run(claim).names
        assert store.chords.clear(claim, names) is False
        store.chords.open(KEY, 60.0, size=1)
        assert store.chords.clear(claim, names) is True
        assert store.chords.leftovers(claim) == []

    def test_a_chord_lives_as_long_as_a_part_returns_in_each_ttl(self, store: Store) -> None:
        ttl = 10.0 * self.second
        store.chords.open(KEY, ttl, size=6, body=b"body")
        outcome = None
        for number in range(6):
            outcome = store.chords.return_part(KEY, part(number), ttl, CLAIMS)
            self.pass_time(0.7 * ttl)
        assert outcome is not None
        assert outcome.claim is not None
        run = store.chords.read_run(outcome.claim)
        assert (len(run.parts), run.body) == (6, b"body")

    @pytest.mark.parametrize("ttl", [None, 0.0, math.inf, 3600.0])
    def test_all_records_of_a_chord_expire_so_that_none_is_orphaned_for_ever(
        self, store: Store, ttl: float | None
    ) -> None:
        """A head never outlives what belongs to it, and a chord whose results never expire is kept for a year."""
        store.chords.open(KEY, ttl, size=5, body=b"body", header=b"header")
        store.chords.return_part(KEY, part(0), ttl, CLAIMS)
        store.chords.add_more(KEY, "more", 1, ttl)
        head = store.ttl(KEY)
        others = self.lifetimes(store, KEY)
        assert head is not None
        assert head <= (3600.0 if ttl == 3600.0 else 365 * 86400.0)
        assert others
        assert all(other is not None and head < other <= 2.01 * head for other in others)

    def test_the_owner_of_claims_here_is_alive_and_no_owner_is_dead(self, store: Store) -> None:
        assert store.is_alive(store.owner()) is True
        assert store.is_alive(NO_OWNER) is False
