"""The tests of a store in one class."""

import pytest

from lmdbresults.errors import StoreClosed
from lmdbresults.store.base import Store
from lmdbresults.testing.chords import Chords
from lmdbresults.testing.expiry import Expiry, Sweeping
from lmdbresults.testing.hooks import Hooks
from lmdbresults.testing.queue_routes import QueueRoutes
from lmdbresults.testing.queue_upkeep import QueueOwners, QueueUpkeep
from lmdbresults.testing.queues import Queues
from lmdbresults.testing.samples import VERBS
from lmdbresults.testing.scanning import Ranges, Scans
from lmdbresults.testing.transactions import Blocks, Transactions
from lmdbresults.testing.values import Counters, Values
from lmdbresults.testing.waiting import Waiting

__all__ = ["StoreConformance"]


class Lifecycle(Hooks):
    """Opening and closing."""

    def test_a_new_store_is_empty(self, store: Store) -> None:
        assert list(store.scan()) == []

    @pytest.mark.parametrize("verb", VERBS)
    def test_a_closed_store_refuses_use(self, store: Store, verb: str) -> None:
        store.close()
        store.close()
        with pytest.raises(StoreClosed):
            VERBS[verb](store)

    def test_a_with_block_closes_the_store(self, store: Store) -> None:
        with store as same:
            assert same is store
            store.set(b"key", b"value")
        with pytest.raises(StoreClosed):
            store.get(b"key")

    def test_an_exception_leaves_the_with_block_and_closes_the_store(self, store: Store) -> None:
        with pytest.raises(LookupError), store:
            raise LookupError
        with pytest.raises(StoreClosed):
            store.get(b"key")


class StoreConformance(
    Values,
    Counters,
    Expiry,
    Sweeping,
    Transactions,
    Blocks,
    Waiting,
    Scans,
    Ranges,
    Chords,
    Queues,
    QueueRoutes,
    QueueUpkeep,
    QueueOwners,
    Lifecycle,
):
    """Subclass it, and override what `Hooks` says. Tests of a capability that the store does not have are skipped."""
