"""The results of Celery's own Redis backend (``redis://``, ``rediss://``, ``unix://``), to read and to write."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from lmdbresults.copying.celery_metas import CeleryMetas
from lmdbresults.copying.items import GROUP, PREFIXES, RESULT, VALUE, Item, same_deadline, wins
from lmdbresults.copying.sides import Merged, Source, Target, batched, overtaken
from lmdbresults.errors import NewerFormat, SerializationError, StoreError, StoreUnavailable

__all__ = ["CeleryRedis"]

#: What Celery appends to the key of a group for the records of its chord: parts, their count, size, ids, claim.
_CHORD_SUFFIXES: Final = (b".j", b".t", b".s", b".d", b".c")
#: Writes a value unless the present one has changed since it was read, and wakes waiters as Celery does.
_REPLACE: Final = """
local present = redis.call('GET', KEYS[1])
if (present or '') ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
redis.call('PUBLISH', KEYS[1], ARGV[2])
return 1
"""
#: How often a batch is compared again with what other processes have written meanwhile.
_ROUNDS: Final = 10
#: Keys that the server looks at in one step of a scan.
_SCAN_COUNT: Final = 1000


class CeleryRedis(Source, Target):
    """Celery's results in one Redis database.

    ``driver`` is the client library, ``prefix`` Celery's ``global_keyprefix``. Raises `StoreUnavailable` while the
    server cannot be reached, and `StoreError` if it refuses a command.
    """

    refuses_chords = (
        "Celery's Redis backend counts the parts of a chord in its own way, so open chords cannot move there. "
        "Let the workers finish them first, or leave them out by --skip-chords"
    )

    def __init__(self, driver: Any, url: str, metas: CeleryMetas, prefix: str = "") -> None:
        super().__init__()
        self._errors = driver.exceptions
        self._client = driver.Redis.from_url(url)
        self._metas = metas
        self._prefix = (prefix + "_" if prefix and prefix[-1] not in ":_-." else prefix).encode()
        self._replace = self._client.register_script(_REPLACE)

    def estimate(self) -> int | None:
        with self._server():
            return int(self._client.dbsize())

    @contextmanager
    def _server(self) -> Iterator[None]:
        """Raise what the server or its connection raises as an error of this package."""
        try:
            yield
        except (self._errors.ConnectionError, self._errors.TimeoutError) as error:
            text = str(error).rstrip(".")
            raise StoreUnavailable(
                f"{self._address()} does not serve: {text}. Check that it runs and can be reached, and repeat the copy."
            ) from error
        except self._errors.RedisError as error:
            raise StoreError(f"{self._address()} refuses a command: {error}") from error

    def _address(self) -> str:
        place = self._client.connection_pool.connection_kwargs
        return str(place.get("path") or f"{place.get('host')}:{place.get('port')}")

    # -- reading -----------------------------------------------------------------------------------------------------

    def batches(self, size: int) -> Iterator[list[Item]]:
        for kind in (RESULT, GROUP):
            life = None
            while life != (life := self._life()):  # the cursor of another life leaves keys out
                yield from self._scan(kind, size)

    def _life(self) -> str:
        """Return what differs once the server was restarted; nothing if this user may not ask."""
        with self._server():
            try:
                return str(self._client.info("server").get("run_id"))
            except self._errors.NoPermissionError:
                return ""

    def _scan(self, kind: str, size: int) -> Iterator[list[Item]]:
        keys = self._client.scan_iter(match=_literal(self._prefix + PREFIXES[kind]) + b"*", count=_SCAN_COUNT)
        batches = batched(keys, size)
        while batch := self._next(batches):
            wanted = [key for key in batch if kind == RESULT or not key.endswith(_CHORD_SUFFIXES)]
            self._note_chords(set(batch).difference(wanted))
            yield [item for item in self._items(kind, wanted) if item is not None]

    def _next(self, batches: Iterator[list[bytes]]) -> list[bytes] | None:
        with self._server():
            return next(batches, None)

    def _items(self, kind: str, keys: Sequence[bytes]) -> list[Item | None]:
        prefix = len(self._prefix + PREFIXES[kind])
        return [
            None if value is None else self._item(kind, key[prefix:], value, deadline)
            for key, (value, deadline) in zip(keys, self._values(keys), strict=True)
        ]

    def _values(self, keys: Sequence[bytes]) -> list[tuple[bytes | None, float]]:
        """Return the values of keys and when they expire."""
        with self._server(), self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.get(key)
                pipe.pttl(key)
            answers, now = pipe.execute(), time.time()
        deadlines = (math.inf if left == -1 else now + left / 1000 for left in answers[1::2])
        return list(zip(answers[::2], deadlines, strict=True))

    def _item(self, kind: str, id_: bytes, document: bytes, deadline: float) -> Item | None:
        try:
            value = self._metas.record(document) if kind == RESULT else self._metas.group(document)
        except (SerializationError, NewerFormat) as error:
            self.problems.append(f"{kind} {id_.decode(errors='backslashreplace')}: {error}")
            return None
        return Item(kind, id_, value, deadline)

    def _note_chords(self, keys: set[bytes]) -> None:
        for key in keys:
            if key.endswith(b".s"):
                name = key[len(self._prefix + PREFIXES[GROUP]) : -2].decode(errors="backslashreplace")
                self.left_out.append(f"chord {name} is in flight: let the workers of the source finish it.")

    # -- writing -----------------------------------------------------------------------------------------------------

    def merge(self, items: Sequence[Item], *, dry_run: bool = False) -> Merged:
        total, left = Merged(), [item for item in items if item.kind != VALUE and not _has_expired(item)]
        for _ in range(_ROUNDS):
            done, left = self._merge_once(left, dry_run)
            total += done
            if not left:
                return total
        self.problems += overtaken(left)
        return total

    def _merge_once(self, items: Sequence[Item], dry_run: bool) -> tuple[Merged, list[Item]]:
        """Return what was done, and the items whose place another process has written to meanwhile."""
        keys = [self._prefix + item.key for item in items]
        present = self._values(keys) if keys else []
        same = kept = 0
        writes: list[tuple[Item, bytes, bytes, bytes]] = []
        for item, key, (value, deadline) in zip(items, keys, present, strict=True):
            document = self._document(item)
            if document is None:
                continue
            if value == document and same_deadline(deadline, item.deadline):
                same += 1
            elif value is not None and not self._wins(item, value, document, deadline):
                kept += 1
            else:
                writes.append((item, key, value or b"", document))
        if dry_run:
            return Merged(len(writes), same, kept), []
        written = self._write(writes)
        again = [item for (item, *_), is_written in zip(writes, written, strict=True) if not is_written]
        return Merged(len(writes) - len(again), same, kept), again

    def _document(self, item: Item) -> bytes | None:
        try:
            if item.kind == GROUP:
                return self._metas.group_document(item.value)
            return self._metas.document(item.id.decode(), item.value)
        except (SerializationError, NewerFormat) as error:
            self.problems.append(f"{item}: {error}")
            return None

    def _wins(self, item: Item, value: bytes, document: bytes, deadline: float) -> bool:
        if value == document:
            return wins(item, item._replace(deadline=deadline))
        present = self._item(item.kind, item.id, value, deadline)
        return present is not None and wins(item, present)

    def _write(self, writes: Sequence[tuple[Item, bytes, bytes, bytes]]) -> list[bool]:
        if not writes:
            return []
        with self._server(), self._client.pipeline(transaction=False) as pipe:
            for item, key, present, document in writes:
                ttl = item.ttl()
                self._replace([key], [present, document, "" if ttl is None else max(round(ttl * 1000), 1)], client=pipe)
            return [bool(done) for done in pipe.execute()]

    def read(self, items: Sequence[Item]) -> list[Item | None]:
        values = self._values([self._prefix + item.key for item in items]) if items else []
        return [
            None if value is None else self._item(item.kind, item.id, value, deadline)
            for item, (value, deadline) in zip(items, values, strict=True)
        ]

    def close(self) -> None:
        self._client.close()


def _has_expired(item: Item) -> bool:
    ttl = item.ttl()
    return ttl is not None and ttl <= 0


def _literal(key: bytes) -> bytes:
    """Return a pattern that matches only a key itself."""
    return b"".join(b"\\%c" % byte if byte in b"*?[]\\" else bytes((byte,)) for byte in key)
