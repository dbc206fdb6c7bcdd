"""The sidecar: the file beside the data file that holds its last checkpoint, and the locks that go with it.

It has four slots of a page each, so that the former checkpoint stays whole while one is written. The holder of the
checkpoint lock writes to the first two, the holder of LMDB's write lock to the others: so neither ever waits for the
other. The first page also holds, behind its slot, whether a sync of the data file has failed, and whether the holder of
the checkpoint lock is stopped. A fifth page holds where the log ends (log.py): for the processes of this boot, so it is
never synced for its own sake.

Two locks by flock, which end with the process that holds them: the *checkpoint lock*, on the sidecar, is held while a
checkpoint is made; the *lock of the data file* is shared by all processes that have it open, and exclusive during
recovery.
"""

import errno
import fcntl
import os
import struct
import time
from contextlib import suppress
from typing import Final, NamedTuple
from zlib import crc32

from lmdbresults.errors import FileReplaced, NewerFormat
from lmdbresults.process import boot
from lmdbresults.store.lmdb.file import meta, paths
from lmdbresults.store.lmdb.file.lmdb_errors import SyncFailure
from lmdbresults.store.lmdb.file.meta import IDENTITY_BYTES, IDENTITY_PLACE, META_BYTES, Head

__all__ = [
    "NO_CHECKPOINT",
    "Checkpoint",
    "Sidecar",
    "SidecarState",
    "last_checkpoint_at",
    "new_life",
    "parse",
]

_SLOT_BYTES: Final = 4096
_SLOTS: Final = 4
_MAGIC: Final = b"lmdbrcp2"
#: Magic, and the fields of `Checkpoint` in their order; then a checksum.
_LAYOUT: Final = struct.Struct(f">8sQQ??Qd36sQ16s{META_BYTES}s")
_CHECKSUM: Final = struct.Struct(">I")
_BYTES: Final = _LAYOUT.size + _CHECKSUM.size
#: Follows a checkpoint that is known to be on the disk. It is for the processes of this boot, so it is not synced.
_CONFIRMED: Final = b"durable!"
#: Where the first page says that a sync has failed: behind all that is ever written there of a checkpoint.
_FAILURE_AT: Final = 2048
_FAILURE_MAGIC: Final = b"lmdbrfs1"
#: Magic, when, in which boot, of which data file, why; then a checksum.
_FAILURE: Final = struct.Struct(">8sd36s16s128s")
_FAILURE_BYTES: Final = _FAILURE.size + _CHECKSUM.size
#: Where it says that the holder of the checkpoint lock is stopped.
_STUCK_AT: Final = 3072
_STUCK: Final = b"stuck..."
#: Where the log ends: behind the slots.
_POSITION_AT: Final = _SLOTS * _SLOT_BYTES


class Checkpoint(NamedTuple):
    """What one slot of the sidecar says of the data file. The largest one counts."""

    generation: int
    """Goes up when the numbers of the commits start again, or the way in which they are protected changes."""
    txn: int
    """The commit up to which all is durable; 0 if none is known to be."""
    is_pinned: bool
    """Whether every writer makes sure that the pages of the checkpoint are not reused."""
    is_logged: bool
    """Whether every writer also writes to the log, or notes there that it does not."""
    life: int
    """Which records of the log follow the checkpoint: those of this number, which is random. 0: none."""
    made_at: float
    """When, in seconds since the epoch."""
    boot: str
    """In which boot of the machine."""
    namespace: int
    """In which PID namespace; 0 if unknown."""
    identity: bytes
    """Of which data file; zeros if that has no identity."""
    meta: bytes
    """The meta page of the commit."""

    @classmethod
    def unpack(cls, data: bytes) -> "Checkpoint | None":
        """Return the checkpoint that the bytes of a slot begin with, or None if they hold none."""
        body = data[: _LAYOUT.size]
        if not body.startswith(_MAGIC) or data[_LAYOUT.size : _BYTES] != _CHECKSUM.pack(crc32(body)):
            return None
        _, generation, txn, is_pinned, is_logged, life, made_at, boot_id, *rest = _LAYOUT.unpack(body)
        in_words = boot_id.rstrip(b"\0").decode("ascii", "replace")
        return cls(generation, txn, is_pinned, is_logged, life, made_at, in_words, *rest)

    def pack(self) -> bytes:
        """Return the bytes of the checkpoint in a slot."""
        *numbers, boot_id, namespace, identity, page = self
        body = _LAYOUT.pack(_MAGIC, *numbers, boot_id.encode(), namespace, identity, page)
        return body + _CHECKSUM.pack(crc32(body))

    def is_of(self, head: Head) -> bool:
        """Return whether it is a checkpoint of a data file."""
        return any(self.identity) and self.identity == head.identity

    def is_last_commit_of(self, head: Head) -> bool:
        """Return whether nothing was committed to the data file since the checkpoint."""
        return head.newest is not None and head.newest.data == self.meta and self.is_of(head)


#: What an empty sidecar says.
NO_CHECKPOINT: Final = Checkpoint(0, 0, False, False, 0, 0.0, "", 0, bytes(IDENTITY_BYTES), bytes(META_BYTES))


class SidecarState(NamedTuple):
    """What the sidecar says, read in one go."""

    last: Checkpoint
    """The last checkpoint, whether or not it is on the disk."""
    durable: Checkpoint
    """The last one that is known to be on the disk. A later one may be on its way, or its maker was killed."""
    is_garbled: bool
    """Whether there is content, and none that can be read."""
    is_newer: bool
    """Whether a newer version of this package has written to it."""
    is_lock_stuck: bool
    """Whether a process has found the holder of the checkpoint lock stopped."""
    next_slots: tuple[int, int]
    """The slot to write to next for the holder of the checkpoint lock, and for the holder of LMDB's write lock."""


def parse(data: bytes) -> SidecarState:
    """Return what the bytes of a sidecar say."""
    last = durable = NO_CHECKPOINT
    is_newer, ranks = False, []
    for start in range(0, _SLOTS * _SLOT_BYTES, _SLOT_BYTES):
        magic = data[start : start + len(_MAGIC)]
        is_newer |= magic[:-1] == _MAGIC[:-1] and magic > _MAGIC
        found = Checkpoint.unpack(data[start : start + _BYTES]) if magic == _MAGIC else None
        is_durable = found is not None and data.startswith(_CONFIRMED, start + _BYTES)
        if found is not None:
            last = max(last, found)
            durable = max(durable, found) if is_durable else durable
        # What is not known to be durable is overwritten first: the other one may be all that is on the disk.
        ranks.append((is_durable, found or NO_CHECKPOINT))
    next_slots = int(ranks[1] < ranks[0]), 2 + int(ranks[3] < ranks[2])
    is_garbled = last is NO_CHECKPOINT and data.count(0) < len(data)
    return SidecarState(last, durable, is_garbled, is_newer, data.startswith(_STUCK, _STUCK_AT), next_slots)


def last_checkpoint_at(path: str) -> float | None:
    """Return when the last checkpoint of a data file was made, in seconds since the epoch; None if that is unknown."""
    try:
        sidecar = Sidecar(path)
    except (OSError, NewerFormat):
        return None
    try:
        return sidecar.read().last.made_at or None
    finally:
        sidecar.close()


def new_life() -> int:
    """Return the number of a new life of a log. A counter would begin again with a new sidecar."""
    return int.from_bytes(os.urandom(8), "big")


class Sidecar:
    """The sidecar of an open data file, with a descriptor of each. Both files must exist."""

    def __init__(self, path: str) -> None:
        self._data_path = path
        self._path = path + paths.CHECKPOINT_SUFFIX
        self._own = self.data = -1
        try:
            self.data = _open(path)
            self._own = _open(self._path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close both files, which releases the locks, after LMDB has closed the data file. May be called again."""
        descriptor, self._own = self._own, -1
        if descriptor >= 0:
            os.close(descriptor)
        descriptor, self.data = self.data, -1
        if descriptor >= 0:
            os.close(descriptor)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def read(self) -> SidecarState:
        """Return what the sidecar says now. Raises `NewerFormat`."""
        state = parse(os.pread(self._own, _SLOTS * _SLOT_BYTES, 0))
        if state.is_newer:
            raise NewerFormat(f"{self._path} was written by a newer lmdbresults: upgrade it in every process.")
        return state

    def describe(
        self, state: SidecarState, head: Head, txn: int, *, is_pinned: bool, is_logged: bool = False
    ) -> Checkpoint:
        """Return the last commit, which has the number ``txn``, as a checkpoint. The caller holds LMDB's write lock.

        ``state`` and ``head`` were read under it. Raises `FileReplaced` if the file has no such commit: then other
        processes write to another file under the same lock file.
        """
        page, identity = head.newest, self.ensure_identity(head)
        if page is None or page.txn != txn:
            raise FileReplaced(
                f"{self._data_path} was deleted or replaced while a process has the former file open: stop "
                "every process that uses either, then start them again."
            )
        former = state.last
        continues = former.is_pinned == is_pinned and former.identity == identity and former.txn <= txn
        generation, life = former.generation + (not continues), former.life if continues else new_life()
        where = boot.boot_id(), boot.pid_namespace()
        return Checkpoint(generation, txn, is_pinned, is_logged, life, time.time(), *where, identity, page.data)

    def write(self, checkpoint: Checkpoint, state: SidecarState, *, with_lock: bool) -> None:
        """Make a checkpoint the last one, durably. ``state`` was read under the lock that the caller holds.

        That is the checkpoint lock (``with_lock``), or LMDB's write lock.
        """
        place = state.next_slots[not with_lock] * _SLOT_BYTES
        os.pwrite(self._own, checkpoint.pack() + bytes(len(_CONFIRMED)), place)
        os.fdatasync(self._own)
        os.pwrite(self._own, _CONFIRMED, place + _BYTES)

    def covers(self, number: float) -> bool:
        """Return whether a durable checkpoint covers commit ``number``, in a sidecar that is still there."""
        return self.read().durable.txn >= number and not self.is_missing()

    def position(self, size: int) -> bytes:
        """Return the first bytes of what says where the log ends; b"" in a sidecar that is shorter."""
        return os.pread(self._own, size, _POSITION_AT)

    def note_position(self, data: bytes) -> None:
        """Say where the log ends. The caller holds LMDB's write lock, or the lock of the data file exclusively."""
        os.pwrite(self._own, data, _POSITION_AT)

    # -- a failed sync ---------------------------------------------------------------------------------------------

    def failure(self) -> SyncFailure | None:
        """Return the sync of this data file that has failed in this boot and was not repaired, if there is one."""
        data = os.pread(self._own, _FAILURE_BYTES, _FAILURE_AT)
        if not data.startswith(_FAILURE_MAGIC) or data[_FAILURE.size :] != _CHECKSUM.pack(crc32(data[: _FAILURE.size])):
            return None
        _, at, boot_id, identity, reason = _FAILURE.unpack(data[: _FAILURE.size])
        if boot_id.rstrip(b"\0") != boot.boot_id().encode() or not any(identity):
            return None
        if identity != self.head().identity:
            return None
        return SyncFailure(at, reason.rstrip(b"\0").decode(errors="replace"))

    def note_failure(self, failure: SyncFailure) -> None:
        """Note that a sync has failed, for the processes of this boot: so the note itself is not synced.

        The data file has its identity. A note that exists stays: a reader must not find half of another one.
        """
        if boot.boot_id() and self.failure() is None:
            reason, identity = failure.reason.encode(), self.head().identity
            body = _FAILURE.pack(_FAILURE_MAGIC, failure.at, boot.boot_id().encode(), identity, reason)
            os.pwrite(self._own, body + _CHECKSUM.pack(crc32(body)), _FAILURE_AT)

    def clear_failure(self) -> None:
        """Remove the note of a failed sync. The caller holds the lock of the data file exclusively."""
        os.pwrite(self._own, bytes(_FAILURE_BYTES), _FAILURE_AT)

    # -- the files -------------------------------------------------------------------------------------------------

    def is_missing(self) -> bool:
        """Return whether the sidecar, and it alone, was deleted or replaced, as by a cleanup job."""
        return not paths.is_same_file(self._path, self._own) and self.is_path_current()

    def is_path_current(self) -> bool:
        """Return whether the path still leads to the data file that is open here."""
        return paths.is_same_file(self._data_path, self.data)

    def recreate(self, mode: int) -> None:
        """Replace a deleted sidecar by a new one that says the same. The caller holds the checkpoint lock.

        Another process may have been faster, and have made checkpoints since.
        """
        former = self.read().last
        paths.create_sidecar(self._path, mode)
        recreated = _open(self._path)
        fcntl.flock(recreated, fcntl.LOCK_EX)
        os.dup2(recreated, self._own, inheritable=False)
        os.close(recreated)
        state = self.read()
        if state.durable < former:
            self.write(former, state, with_lock=True)

    def sync_folder(self) -> None:
        """Make the name of a new sidecar survive a power failure."""
        with suppress(FileNotFoundError):  # the folder was deleted, and the file with it
            paths.sync_folder(os.path.dirname(self._path))

    def head(self) -> Head:
        """Return the beginning of the data file."""
        return meta.read_head(self.data)

    def ensure_identity(self, head: Head) -> bytes:
        """Return the identity of the data file; give it one if it has none. The caller holds LMDB's write lock."""
        identity = head.identity
        if not any(identity):
            identity = os.urandom(IDENTITY_BYTES)
            os.pwrite(self.data, identity, IDENTITY_PLACE)
        return identity

    # -- locks -----------------------------------------------------------------------------------------------------

    def try_lock_checkpoints(self) -> bool:
        """Acquire the checkpoint lock; return whether it was free."""
        return _try_lock(self._own)

    def unlock_checkpoints(self) -> None:
        """Release the checkpoint lock."""
        fcntl.flock(self._own, fcntl.LOCK_UN)

    def note_lock_stuck(self, is_stuck: bool) -> None:
        """Note that the holder of the checkpoint lock is stopped, so that no other process waits for it."""
        os.pwrite(self._own, _STUCK if is_stuck else bytes(len(_STUCK)), _STUCK_AT)

    def lock_shared(self) -> None:
        """Share the lock of the data file until `close`; wait for a recovery to end."""
        fcntl.flock(self.data, fcntl.LOCK_SH)

    def try_lock_exclusive(self) -> bool:
        """Hold the lock of the data file exclusively until `lock_shared` or `close`; return whether it was free."""
        return _try_lock(self.data)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
