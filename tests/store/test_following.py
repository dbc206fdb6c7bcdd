"""The core of waiting: what a waiter receives, and when it polls. Nothing sleeps here, and time is a number."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from lmdbresults.errors import RecordDamaged
from lmdbresults.store import following
from lmdbresults.store.base import Subscription
from lmdbresults.store.following import Follower, Hub, Wait


class Keys(Subscription):
    """A subscription that takes notes, to a store that is a dict."""

    def __init__(self, store: "Dict") -> None:
        self._store = store
        self.keys: dict[bytes, bool] = {}
        self.descriptor = 1

    def add(self, keys: Iterable[bytes], *, every_change: bool = False) -> dict[bytes, bytes | None]:
        self.keys.update((key, every_change or self.keys.get(key, False)) for key in keys)
        self._store.looks.append(sorted(keys))
        self._store.before_look()
        return {key: self._store.values.get(key) for key in keys}

    def remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.keys.pop(key, None)

    def receive(self, timeout: float) -> Mapping[bytes, Any] | None:
        raise AssertionError("it is for drivers to receive")

    def fileno(self) -> int:
        return self.descriptor

    def ring(self) -> None:
        raise AssertionError("it is for drivers to ring")

    def close(self) -> None:
        """Nothing is held."""


class Dict:
    """A store that is a dict, and the one subscription to it."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.at: int | None = 1
        self.looks: list[list[bytes]] = []
        self.subscription = Keys(self)
        self.before_look = lambda: None

    def subscribe(self) -> Keys:
        return self.subscription

    def moment(self) -> int | None:
        return self.at

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        keys = list(keys)
        self.looks.append(sorted(keys))
        return [self.values.get(key) for key in keys]


class Woken(Follower):
    wakes = 0

    def wake(self) -> None:
        self.wakes += 1

    def take(self) -> dict[bytes, bytes | None]:
        taken = dict(self.news)
        self.news.clear()
        return taken


class Waiter(Wait):
    def __init__(self, hub: Hub, *keys: bytes, until: float = math.inf, **options: Any) -> None:
        super().__init__(hub, keys, until, False, options.get("interval", math.inf), options.get("on_interval"))

    def wake(self) -> None:
        pass

    def begin(self) -> Any:
        assert self._keys is not None
        return self._begin(self._keys)


class Time:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(following, "time", time)
    return time


@pytest.fixture
def store(time: Time) -> Dict:
    return Dict()


@pytest.fixture
def hub(store: Dict) -> Hub:
    return Hub(store, lambda: None)


def follow(hub: Hub, *keys: bytes, every_change: bool = False) -> Woken:
    follower = Woken(every_change)
    hub.follow(follower, keys)
    return follower


# -- which waiter is told --------------------------------------------------------------------------------------------


def test_following_a_key_returns_its_value(store: Dict, hub: Hub) -> None:
    store.values[b"a"] = b"1"
    assert hub.follow(Woken(), [b"a", b"b"]) == {b"a": b"1", b"b": None}
    assert store.subscription.keys == {b"a": False, b"b": False}


def test_news_goes_to_the_followers_of_a_key_and_to_no_others(hub: Hub) -> None:
    first, second, other = follow(hub, b"a", b"b"), follow(hub, b"a"), follow(hub, b"c")
    hub._take({b"a": b"1", b"unknown": None})
    assert (first.take(), second.take(), other.take()) == ({b"a": b"1"}, {b"a": b"1"}, {})
    assert (first.wakes, second.wakes, other.wakes) == (1, 1, 0)
    assert first.take() == {}


def test_a_key_is_subscribed_to_until_its_last_follower_leaves(store: Dict, hub: Hub) -> None:
    first, second = follow(hub, b"a"), follow(hub, b"a")
    hub.unfollow(first, [b"a"])
    assert store.subscription.keys == {b"a": False}
    hub.unfollow(second, [b"a"])
    hub.unfollow(second, [b"a"])
    assert hub._followers == {}
    follow(hub, b"b")
    assert store.subscription.keys == {b"b": False}


def test_few_keys_stay_subscribed_until_the_next_waiter_comes(store: Dict, hub: Hub) -> None:
    keys = [b"%d" % number for number in range(100)]
    follower = follow(hub, *keys)
    for key in keys:
        hub.unfollow(follower, [key])
    assert len(store.subscription.keys) <= following._MOST_UNNEEDED


def test_every_change_is_asked_for_if_one_follower_wants_it(store: Dict, hub: Hub) -> None:
    follow(hub, b"a", every_change=True)
    follow(hub, b"a")
    assert store.subscription.keys == {b"a": True}


def test_a_key_that_is_followed_again_stays_subscribed(store: Dict, hub: Hub) -> None:
    hub.unfollow(follow(hub, b"a"), [b"a"])
    follow(hub, b"a")
    follow(hub, b"b")
    assert store.subscription.keys == {b"a": False, b"b": False}


# -- what a message means --------------------------------------------------------------------------------------------


def test_a_message_without_a_value_is_looked_up(store: Dict, hub: Hub) -> None:
    with Waiter(hub, b"a") as wait:
        wait.begin()
        store.values[b"a"] = b"1"
        hub._take({b"a": None})
        assert wait._take() == {b"a": b"1"}


def test_when_any_key_may_have_changed_all_are_looked_at(store: Dict, hub: Hub) -> None:
    follower = follow(hub, b"a", b"b")
    store.values[b"a"] = b"1"
    store.looks.clear()
    hub._take(None)
    assert (store.looks, follower.take()) == ([[b"a", b"b"]], {b"a": b"1"})


# -- looking again ---------------------------------------------------------------------------------------------------


def test_a_lost_message_is_made_up_for(store: Dict, hub: Hub, time: Time) -> None:
    follower = follow(hub, b"a")
    store.values[b"a"], store.at = b"1", 2
    hub._take({})
    assert follower.take() == {}
    time.now += following.LOOK_EVERY
    hub._take({})
    assert follower.take() == {b"a": b"1"}


def test_other_messages_do_not_put_off_looking_again(store: Dict, hub: Hub, time: Time) -> None:
    follower = follow(hub, b"a", b"b")
    store.values[b"a"], store.at = b"1", 2
    time.now += following.LOOK_EVERY
    hub._take({b"b": b"2"})
    assert follower.take() == {b"a": b"1", b"b": b"2"}


def test_nothing_is_looked_at_while_the_store_has_not_changed(store: Dict, hub: Hub, time: Time) -> None:
    follow(hub, b"a")
    time.now += following.LOOK_EVERY
    hub._take({})
    store.looks.clear()
    for _ in range(3):
        time.now += following.LOOK_EVERY
        hub._take({})
    assert store.looks == []
    store.at = 2
    time.now += following.LOOK_EVERY
    hub._take({})
    assert store.looks == [[b"a"]]


def test_a_store_that_cannot_say_whether_it_has_changed_is_always_looked_at(store: Dict, hub: Hub, time: Time) -> None:
    store.at = None
    follow(hub, b"a")
    store.looks.clear()
    for _ in range(3):
        time.now += following.LOOK_EVERY
        hub._take({})
    assert store.looks == [[b"a"]] * 3


def test_a_value_is_told_once_by_looking_again(store: Dict, hub: Hub, time: Time) -> None:
    follower = follow(hub, b"a")
    for value in (b"1", b"1", b"2"):
        store.values[b"a"] = value
        store.at = (store.at or 0) + 1
        time.now += following.LOOK_EVERY
        hub._take({})
    assert follower.wakes == 2
    assert follower.take() == {b"a": b"2"}


def test_looking_again_takes_a_small_share_of_the_time(store: Dict, hub: Hub, time: Time) -> None:
    def slow() -> None:
        time.now += 0.1

    follow(hub, b"a")
    store.before_look = slow
    hub._take(None)
    assert hub._look_at == pytest.approx(time.now + 0.1 / following.LOOKING_SHARE)


def test_without_messages_it_looks_soon_at_first_and_then_less_often(store: Dict, hub: Hub, time: Time) -> None:
    store.subscription.descriptor = -1
    store.at = None
    follow(hub, b"a")
    pauses = []
    for _ in range(6):
        pauses.append(hub._look_at - time.now)
        time.now = hub._look_at
        hub._take({})
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.5, 0.5])


def test_a_record_that_is_damaged_is_found_by_its_own_followers(store: Dict, hub: Hub) -> None:
    def damaged() -> None:
        raise RecordDamaged("a")

    follower = follow(hub, b"a")
    store.before_look = damaged
    hub._take(None)
    assert follower.take() == {b"a": None}


# -- a wait ----------------------------------------------------------------------------------------------------------


def test_a_wait_without_time_follows_nothing(store: Dict, hub: Hub, time: Time) -> None:
    wait = Waiter(hub, b"a", until=time.now)
    assert wait.begin() == {}
    assert wait._has_ended
    assert (store.subscription.keys, store.looks) == ({}, [])


def test_a_wait_ends_with_a_last_look_at_every_key(store: Dict, hub: Hub, time: Time) -> None:
    wait = Waiter(hub, b"a", b"b", until=time.now + 1)
    wait.begin()
    store.values[b"a"] = b"1"
    assert wait._take() == {}
    time.now += 1
    hub._take({b"b": b"2"})
    assert wait._take() == {b"a": b"1", b"b": b"2"}
    assert wait._has_ended


def test_a_wait_sleeps_until_its_end_or_its_next_interval(hub: Hub, time: Time) -> None:
    wait = Waiter(hub, b"a", until=time.now + 10)
    assert wait._next_look() == time.now + 10
    wait = Waiter(hub, b"a", until=time.now + 10, interval=3)
    assert wait._next_look() == time.now + 3
    time.now += 9
    assert wait._next_look() == time.now + 1


def test_on_interval_is_called_before_following_and_between_two_sleeps(store: Dict, hub: Hub, time: Time) -> None:
    called: list[str] = []
    wait = Waiter(hub, b"a", until=time.now + 1, on_interval=lambda: called.append("called"))
    store.before_look = lambda: called.append("looked")
    wait.begin()
    for _ in range(2):
        wait._next_look()
        called.append("slept")
    assert called == ["called", "looked", "slept", "called", "slept"]
    Waiter(hub, b"a", until=time.now, on_interval=lambda: called.append("without time")).begin()
    assert "without time" not in called


def test_a_wait_that_is_closed_leaves_nothing(store: Dict, hub: Hub) -> None:
    wait = Waiter(hub, b"a", b"b")
    wait.begin()
    wait.drop([b"a"])
    assert list(hub._followers) == [b"b"]
    wait.close()
    wait.close()
    hub._unsubscribe()
    assert (store.subscription.keys, hub._followers) == ({}, {})
