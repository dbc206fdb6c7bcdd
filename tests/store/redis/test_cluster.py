"""What a Cluster changes: where keys lie, steps that need two slots, slots that move, masters that fail."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lmdbresults.errors import StoreUnavailable
from lmdbresults.process.identity import NO_OWNER
from lmdbresults.store.chords import Claim, Part, PartOutcome, ResultRecord
from lmdbresults.store.redis import RedisStore, open_redis
from lmdbresults.store.redis.chords import RedisChords
from lmdbresults.store.redis.layout import slot_of
from lmdbresults.store.transactions import WriteTransaction
from tests.support.processes import ChildDied, in_child
from tests.support.redis_servers import RedisServer, redis_cluster, until

CHORD, CLAIMS = b"chord-unlock-group", b"chord-unlock-.claims"


@pytest.fixture
def store(cluster_url: str) -> Iterator[RedisStore]:
    with open_redis(cluster_url) as store:
        yield store


def result(number: int) -> bytes:
    return b"celery-task-meta-%d" % number


def return_part(store: RedisStore, number: int, *, with_result: bool = True) -> PartOutcome:
    record = ResultRecord(result(number), b"value", 60.0, b"SUCCESS") if with_result else None
    outcome = store.chords.return_part(CHORD, Part(number, str(number), b"value"), 60.0, CLAIMS, size=3, result=record)
    assert outcome is not None
    return outcome


# -- where keys lie ----------------------------------------------------------------------------------------------------


def test_results_are_spread_and_all_that_belongs_to_a_chord_lies_together(store: RedisStore, cluster):
    store.update(lambda txn: [txn.set(result(number), b"%d" % number) for number in range(300)])
    counts = [node.call("DBSIZE") for node in cluster]
    assert all(count > 40 for count in counts)
    assert store.mget(map(result, range(300))) == [b"%d" % number for number in range(300)]
    assert sorted(dict(store.scan(b"celery-task-meta-"))) == sorted(map(result, range(300)))
    return_part(store, 1)
    names = [name for node in cluster for name in node.call("KEYS", "chord-*")]
    assert len(names) == 2
    assert len({slot_of(name) for name in names}) == 1


def test_slots_are_those_of_the_server(cluster: list[RedisServer]):
    for name in (
        b"",
        b"key",
        b"{a}key",
        b"key{a}",
        b"{}key",
        b"a{}{b}",
        b"{a",
        b"a}b{c}d",
        b"{{a}}",
        bytes(range(256)),
    ):
        assert slot_of(name) == cluster[0].call("CLUSTER", "KEYSLOT", name)


# -- two slots ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_between_part_and_result_leaves_a_part_that_counts(store: RedisStore):
    """The part goes first and carries the value. Delivered again, it changes nothing, and the result is stored."""
    store.set(result(0), b"STARTED")

    def die_before_the_result() -> None:
        store.set = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        return_part(store, 0)

    with pytest.raises(ChildDied):
        in_child(die_before_the_result)
    assert store.get(result(0)) == b"STARTED"
    assert return_part(store, 1).claim is None
    claim = return_part(store, 2).claim
    assert claim is not None
    assert [part.value for part in store.chords.read_run(claim).parts] == [b"value"] * 3
    assert return_part(store, 0) == PartOutcome(False, None)  # its message comes again
    assert store.get(result(0)) == b"value"


@pytest.mark.parametrize("step", ["part", "claim", "end"])
def test_a_claim_is_found_wherever_its_owner_dies(store: RedisStore, step: str):
    def die_at_the_step() -> None:
        for number in range(2):
            return_part(store, number)
        if step == "part":  # the chord stands among the claims, and its last part is not counted
            RedisChords._enter = lambda *args: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        claim = return_part(store, 2).claim
        assert claim is not None
        if step == "end":
            RedisChords._leave = lambda *args: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
            store.chords.end(claim, 60.0, CLAIMS, store.chords.read_run(claim).names, is_last=True)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildDied):
        in_child(die_at_the_step)
    if step == "part":
        assert store.chords.orphans(CLAIMS) == []
        claim = return_part(store, 2).claim
        assert claim is not None
    else:
        assert store.chords.orphans(CLAIMS) == [CHORD]
        claim = store.chords.take_over(CHORD, CLAIMS)
        assert claim is not None
        assert (claim.is_inherited, claim.has_ended) == (True, step == "end")
    assert store.chords.end(claim, 60.0, CLAIMS, store.chords.leftovers(claim), is_last=True)
    assert store.chords.orphans(CLAIMS) == []
    assert [(key, head.state, head.returned) for key, head in store.chords.in_flight()] == [(CHORD, "ended", 3)]


def test_replicas_are_waited_for_before_a_chord_is_claimed(cluster_url: str):
    """Else a failover could lose the entry by which a dead worker's chord is found."""
    with (
        open_redis(cluster_url, min_replicas=1, socket_timeout=0.1, retry_timeout=0.0) as store,
        pytest.raises(StoreUnavailable),
    ):
        store.chords._enter(CLAIMS, CHORD)


def test_a_chord_that_is_about_to_be_claimed_is_no_orphan_whatever_the_clock_of_the_machine(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
):
    store.chords._enter(CLAIMS, CHORD)
    tomorrow = time.time() + 86400
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    assert store.chords.orphans(CLAIMS) == []


def test_an_open_chord_is_read_whole_by_its_head(store: RedisStore):
    store.chords.open(CHORD, 60.0, size=3, body=b"body")
    return_part(store, 1)
    ((key, head),) = store.chords.in_flight(b"chord-unlock-")
    assert (key, head.state, head.size, head.returned, head.owner) == (CHORD, "open", 3, 1, NO_OWNER)
    run = store.chords.read_run(Claim(key, head.run, ""))
    assert (run.body, [part.place for part in run.parts]) == (b"body", [1])


def test_an_update_over_many_slots_runs_again_until_nothing_has_changed_meanwhile(store: RedisStore):
    def add_to_all(txn: WriteTransaction) -> None:
        if txn.get(b"done-%d" % threading.get_ident()) is None:
            values = txn.mget(map(result, range(5)))
            for number, value in enumerate(values):
                txn.set(result(number), b"%d" % (int(value or b"0") + 1))

    for _ in range(10):
        store.update(add_to_all)
    assert store.mget(map(result, range(5))) == [b"10"] * 5


# -- slots that move ---------------------------------------------------------------------------------------------------


def test_nothing_is_lost_while_a_slot_moves(store: RedisStore, cluster: list[RedisServer]):
    """A key is at its old node, on its way, and at its new node. A waiter hears of it once the slot has moved."""
    key = result(0)
    name = b"celery-task-meta-{0}"
    slot = slot_of(name)
    owners = [node for node in cluster if node.call("CLUSTER", "COUNTKEYSINSLOT", slot) or store.set(key, b"0")]
    source = next(node for node in owners if node.call("CLUSTER", "COUNTKEYSINSLOT", slot))
    target = next(node for node in cluster if node is not source)
    subscription = store.subscribe()
    assert subscription.add([key]) == {key: b"0"}

    def check(value: bytes, *, is_heard: bool = True) -> None:
        assert store.set(key, value) is True
        assert store.get(key) == value
        assert store.update(lambda txn: txn.add(key, b"")) is False
        assert store.incr(result(0), 1) == int(value) + 1
        if is_heard:
            until(lambda: heard(subscription, key), "the waiter does not hear of it")

    check(b"1")
    ids = {node: node.call("CLUSTER", "MYID").decode() for node in (source, target)}
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    check(b"3")
    store.delete(key)
    check(b"5", is_heard=False)  # it is made at the target, by way of ASK; the channel is still at the source
    source.call(
        "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *source.call("CLUSTER", "GETKEYSINSLOT", slot, 9)
    )
    check(b"7", is_heard=False)
    for node in (target, source, *cluster):
        node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    check(b"9")
    assert target.call("CLUSTER", "COUNTKEYSINSLOT", slot) >= 1
    subscription.close()
    target.call("FLUSHALL")
    for node in (source, target, *cluster):  # back, for the tests that follow
        node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[source])


def heard(subscription: Any, key: bytes) -> bool:
    changed = subscription.receive(0.2)
    return changed is None or key in changed


def test_a_replica_takes_over_from_a_master_that_dies(tmp_path: Path):
    """What was acknowledged with ``min_replicas`` is there; writers go on, and waiters hear again."""
    with ExitStack() as stack:
        nodes = stack.enter_context(redis_cluster(tmp_path, masters=3, replicas=1))
        url = f"redis+cluster://127.0.0.1:{nodes[1].port}?retry_timeout=60&min_replicas=1"
        store = stack.enter_context(open_redis(url))
        subscription = store.subscribe()
        store.replace_many([(result(number), None, b"before", None) for number in range(60)])
        for number in range(60, 100):
            store.set(result(number), b"before")
        subscription.add(map(result, range(100)))
        nodes[0].kill()
        assert store.mget(map(result, range(100))) == [b"before"] * 100
        stack.enter_context(open_redis(url, min_replicas=0)).update(
            lambda txn: [txn.set(result(number), b"after") for number in range(100)]
        )
        waiting = set(map(result, range(100)))

        def all_heard() -> bool:
            changed = subscription.receive(0.2)
            if changed is None:
                waiting.difference_update([key for key in waiting if store.get(key) == b"after"])
            waiting.difference_update(changed or ())
            return not waiting

        until(all_heard, "the waiter does not hear of all changes")
        subscription.close()
