"""Results that nobody waits for, but that have a callback, by ``then()``: whoever waits looks after these too.

It is apart from consumer.py because it has a life of its own: results may be collected as garbage at any moment,
and most notes are never needed.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, Protocol

from celery.result import ResultSet
from vine import barrier, promise

from lmdbresults.backends.task_changes import is_pending
from lmdbresults.store.subscriptions import Hub, Listener

__all__ = ["Callbacks", "may_end"]

#: Results that are noted without asking whether anybody could still be told; after that, twice what was left.
_FEW_NOTES: Final = 1000
#: Seconds after which to ask again whether anybody is to be called back.
_INTERVAL: Final = 1.0


class Consumer(Protocol):
    """What is needed of the consumer of results."""

    backend: Any

    @property
    def hub(self) -> Hub:
        """Where threads wait."""

    def metas(self, ids: Iterable[Any], wants: Callable[[Any, bytes, bool], bool]) -> Iterator[tuple[Any, Any, bool]]:
        """Yield id, meta and whether that is final, of those tasks whose record is wanted, by id, record, and that."""

    def fulfil(self, result: Any, meta: dict[str, Any]) -> None:
        """Give a result its final meta."""


class Note:
    """That a result is to be told."""

    __slots__ = ("held", "is_asked", "is_heard", "key", "result")

    def __init__(self, result: Any, key: bytes) -> None:
        self.key = key
        self.result: Callable[[], Any] = weakref.ref(result)
        #: The result itself, where it has to live on for its callback.
        self.held: Any = None
        #: Whether nothing but ``add_pending_result(result)`` was said.
        self.is_asked = True
        #: Whether it is listened to.
        self.is_heard = False


class Callbacks:
    """Results that nobody waits for, but that have callbacks.

    A group that was sent is noted for each of its tasks, though mostly nobody asks to be called back; such notes are
    not listened to, so they cost no write, and they do not keep the results alive.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        #: Guards the notes. No transaction begins while it is held, and no code of users runs. What `discard` touches
        #: is not guarded: a garbage collection may come at any moment, inside this lock too.
        self._lock = threading.RLock()
        self._notes: dict[int, Note] = {}
        self._gone: dict[int, None] = {}
        #: Those that came since somebody drained.
        self._fresh: dict[int, None] = {}
        self._heard: dict[bytes, set[int]] = {}
        #: Keys that need not be listened to any more.
        self._unneeded: list[bytes] = []
        #: Keys with news that is not dealt with.
        self._changed: dict[bytes, None] = {}
        self._listener: Listener | None = None
        self._cull_at = _FEW_NOTES
        #: When to sift notes again that are not listened to, and when to look whether news was lost.
        self._sift_at = self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._notes)

    def add(self, result: Any, weak: bool | None) -> None:
        """Note a result."""
        key = self._consumer.backend.get_key_for_task(result.id)
        with self._lock:
            self._drop_gone()
            note = self._notes.setdefault(id(result), Note(result, key))
            if not note.is_heard:
                self._fresh[id(result)] = None
            if weak is not None:
                note.is_asked = False
                note.held = note.held if weak else result
            if len(self._notes) >= self._cull_at:
                for each in list(self._notes):
                    self._sift(each)
                self._drop_gone()
                self._cull_at = max(_FEW_NOTES, 2 * len(self._notes))
        if weak is False and self._listener is not None:
            self._listener.wake()

    def discard(self, result: Any) -> None:
        """Drop the note of a result, soon. It takes no lock, so it may be called from anywhere."""
        if id(result) in self._notes:
            self._gone[id(result)] = None

    def discard_asked(self, result: Any) -> None:
        """Drop the note of a result that is waited for now and has no callback."""
        note = self._notes.get(id(result))
        if note is not None and note.is_asked:
            self.discard(result)

    def tidy(self) -> None:
        """Drop what was discarded."""
        if self._gone:
            with self._lock:
                self._drop_gone()

    def stop(self) -> None:
        """Listen to nothing, until somebody drains again."""
        with self._lock:
            self._listener = None
            self._fresh = dict.fromkeys(self._notes)
            self._heard.clear()
            for note in self._notes.values():
                note.is_heard = False

    # -- notes, under the lock ---------------------------------------------------------------------------------------

    def _drop_gone(self) -> None:
        with suppress(KeyError):  # of an empty dict
            while True:
                self._drop(self._gone.popitem()[0])

    def _drop(self, number: int) -> None:
        note = self._notes.pop(number, None)
        self._fresh.pop(number, None)
        if note is not None and note.is_heard:
            others = self._heard.get(note.key, set())
            others.discard(number)
            if not others:
                self._heard.pop(note.key, None)
                self._unneeded.append(note.key)

    def _sift(self, number: int) -> bool:
        """Return whether to listen for a note, which is dropped if there is nobody to tell."""
        note = self._notes[number]
        result = note.result()
        if result is None or not may_end(result):
            self._drop(number)
            return False
        if _calls_back(result.on_ready):
            return True
        if _listeners(result.on_ready):  # nothing but groups that nobody asks
            note.held = None
            return False
        return note.is_asked or note.held is not None  # by ``then()``, whose callback is still to come

    def _sifted(self) -> list[bytes]:
        """Return the keys to listen to from now on."""
        candidates = list(self._fresh)
        if time.monotonic() >= self._sift_at:  # somebody may have asked a group by now
            candidates = [number for number, note in self._notes.items() if not note.is_heard]
            self._sift_at = time.monotonic() + _INTERVAL
        self._fresh.clear()
        chosen: dict[bytes, None] = {}
        for number in candidates:
            if self._sift(number):
                note = self._notes[number]
                note.is_heard = True
                self._heard.setdefault(note.key, set()).add(number)
                chosen[note.key] = None
        return list(chosen)

    # -- draining ----------------------------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether there is something to deal with."""
        return bool(self._changed) or (self._listener is not None and self._listener.has_news)

    def wait(self, seconds: float) -> None:
        """Wait for news, for so long at most, and tell the results that it is about."""
        if self._notes or self._unneeded:
            self._listen()
        if self._has_to_look() if not seconds else not self._changed:
            changed = self._listening().wait(seconds, lambda: bool(self._fresh or self._changed))
            if changed is None:
                self._listen_to(list(self._heard))
            else:
                self._changed.update(dict.fromkeys(changed))
        self._tell()

    def _has_to_look(self) -> bool:
        if self._listener is None or not self._heard:
            return False
        is_due = time.monotonic() >= self._look_at
        if is_due:
            self._look_at = time.monotonic() + _INTERVAL
        return is_due or self._listener.has_news

    def _listening(self) -> Listener:
        hub = self._consumer.hub
        with self._lock:
            if self._listener is None:
                self._listener = Listener(hub)
            return self._listener

    def _listen(self) -> None:
        with self._lock:
            self._drop_gone()
            keys = self._sifted()
            unneeded, self._unneeded = self._unneeded, []
        if unneeded and self._listener is not None:
            self._listener.forget(unneeded)
            keys += [key for key in unneeded if key in self._heard]  # another thread wants it by now
        self._listen_to(keys)

    def _listen_to(self, keys: list[bytes]) -> None:
        if keys:
            self._changed.update(dict.fromkeys(self._listening().listen(keys, is_pending)))

    def _tell(self) -> None:
        """Deal with the news. What an exception leaves is for whoever comes next."""
        while self._changed:
            with suppress(KeyError):
                key = self._changed.popitem()[0]
                with self._lock:
                    results = [self._notes[number].result() for number in self._heard.get(key, ())]
                self._tell_all([result for result in results if result is not None], key)

    def _tell_all(self, results: list[Any], key: bytes) -> None:
        for _, meta, _ in self._consumer.metas({result.id for result in results}, lambda *record: record[-1]):
            with self._lock:
                for number in list(self._heard.get(key, ())):
                    self._drop(number)
            for result in results:
                self._consumer.fulfil(result, meta)
            return
        if results:  # for nothing, or forgotten
            self._listen_to([key])


def _calls_back(promised: Any) -> bool:
    """Return whether somebody is called when a promise is fulfilled, perhaps through the barriers of groups."""
    return any(_is_somebody(listener) for listener in _listeners(promised))


def _is_somebody(listener: Any) -> bool:
    if isinstance(listener, barrier):
        return _calls_back(listener.p)
    if not isinstance(listener, promise) or not listener.weak:
        return True
    method = listener.fun()
    group = getattr(method, "__self__", None)
    return _calls_back(group.on_ready) if isinstance(group, ResultSet) else method is not None


def _listeners(promised: Any) -> list[Any]:
    return [listener for listener in list(promised.listeners) if listener is not None]


def may_end(result: Any) -> bool:
    """Return whether a result is one task's that may still end, as far as it knows without looking."""
    return not isinstance(result, ResultSet) and not result._cache and not result.ignored
