"""The file beside the data file that holds its last checkpoint, and the locks that go with it.

It has four places of a page each, so that the checkpoint before stays whole while one is written. Two belong to whoever
has the turn, two to whoever has LMDB's write lock: so neither ever waits for the other. In the first page, far behind
its place, stands whether a sync of the data file has failed.

Two locks by flock, which end with the process that holds them: the *turn*, on this file, to make checkpoints one after
the other; and the *use* of the data file, shared by all who have it open, alone for whoever mends it.
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
from lmdbresults.store.lmdb.file.meta import IDENTITY_BYTES, IDENTITY_PLACE, META_BYTES, Meta

__all__ = ["NO_CHECKPOINT", "Checkpoint", "Failure", "Sidecar"]

_PLACE_BYTES: Final = 4096
_PLACES: Final = 4
_MAGIC: Final = b"lmdbrcp1"
#: Magic, and the fields of `Checkpoint` in their order; then a checksum.
_LAYOUT: Final = struct.Struct(f">8sQQ?d36s16s{META_BYTES}s")
_CHECKSUM: Final = struct.Struct(">I")
_BYTES: Final = _LAYOUT.size + _CHECKSUM.size
#: Follows once all that is known to be on the disk. It is for the processes of this boot, so it need not get there.
_CONFIRMED: Final = b"durable!"
#: In the first place, behind what is ever written there of a checkpoint: that a sync has failed.
_FAILURE_AT: Final = 2048
_FAILURE_MAGIC: Final = b"lmdbrfs1"
#: Magic, when, in which boot, of which data file, why; then a checksum.
_FAILURE: Final = struct.Struct(">8sd36s16s128s")
_FAILURE_BYTES: Final = _FAILURE.size + _CHECKSUM.size


class Checkpoint(NamedTuple):
    """What the sidecar says of its data file. The largest one counts."""

    generation: int
    """Goes up when the numbers of the commits begin anew, or the way in which they are guarded changes."""
    txn: int
    """The commit up to which all is durable; 0 if none is known to be."""
    is_pinned: bool
    """Whether everybody who writes sees to it that its pages are not used again."""
    made_at: float
    """When, in seconds since the epoch."""
    boot: str
    """In which boot of the machine."""
    identity: bytes
    """Of which data file; zeros if that does not say."""
    meta: bytes
    """The meta page of the commit."""

    @property
    def has_meta(self) -> bool:
        """Whether there is a commit to go back to."""
        return meta.unpacked(self.meta) is not None

    def packed(self) -> bytes:
        """Return the bytes that stand for it in the sidecar."""
        generation, txn, is_pinned, made_at, boot_id, identity, page = self
        body = _LAYOUT.pack(_MAGIC, generation, txn, is_pinned, made_at, boot_id.encode(), identity, page)
        return body + _CHECKSUM.pack(crc32(body))


#: Stands for what an empty sidecar says.
NO_CHECKPOINT: Final = Checkpoint(0, 0, False, 0.0, "", bytes(IDENTITY_BYTES), bytes(META_BYTES))


def _unpacked(data: bytes) -> Checkpoint | None:
    body, checksum = data[: _LAYOUT.size], data[_LAYOUT.size : _BYTES]
    if not body.startswith(_MAGIC) or checksum != _CHECKSUM.pack(crc32(body)):
        return None
    _, generation, txn, is_pinned, made_at, boot_id, identity, page = _LAYOUT.unpack(body)
    in_words = boot_id.rstrip(b"\0").decode("ascii", "replace")
    return Checkpoint(generation, txn, is_pinned, made_at, in_words, identity, page)


class Failure(NamedTuple):
    """A sync of the data file that has failed."""

    at: float
    """When, in seconds since the epoch."""
    reason: str
    """What the system said."""


class _Found(NamedTuple):
    """What stands at one place of the sidecar."""

    checkpoint: Checkpoint
    is_durable: bool
    place: int


class Sidecar:
    """The sidecar of an open data file, with a descriptor of each. Both exist when it is made."""

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
        """Close both, which gives up the locks. LMDB must have closed the data file by now."""
        own, data, self._own, self.data = self._own, self.data, -1, -1
        for descriptor in (own, data):
            if descriptor >= 0:
                os.close(descriptor)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def last(self) -> Checkpoint:
        """Return the last checkpoint, on disk or not; `NO_CHECKPOINT` if there is none that can be read."""
        return max((found.checkpoint for found in self._readable()), default=NO_CHECKPOINT)

    def last_durable(self) -> Checkpoint:
        """Return the last checkpoint that is known to be on the disk, or `NO_CHECKPOINT`.

        One that is not may be on its way there, or its maker was killed before that.
        """
        return max((found.checkpoint for found in self._readable() if found.is_durable), default=NO_CHECKPOINT)

    def is_garbled(self) -> bool:
        """Return whether there is something in it, but nothing that can be read. Raises `NewerFormat`."""
        data = os.pread(self._own, _PLACES * _PLACE_BYTES, 0)
        for place in range(_PLACES):
            start = data[place * _PLACE_BYTES :][: len(_MAGIC)]
            if start[:-1] == _MAGIC[:-1] and start > _MAGIC:
                raise NewerFormat(f"{self._path} was written by a newer lmdbresults: upgrade it in every process.")
        return any(data) and not self._readable()

    def described(self, txn: int, *, is_pinned: bool) -> Checkpoint:
        """Return the last commit, which has this number, as a checkpoint. The caller has LMDB's write lock.

        Raises `FileReplaced` if it is not there: others write to another file, by the same lock file.
        """
        former, identity = self.last(), self.ensure_identity()
        goes_on = former.is_pinned == is_pinned and former.identity == identity and former.txn <= txn
        page = next((found for found in self.metas() if found.txn == txn), None)
        if page is None:
            raise FileReplaced(
                f"{self._data_path} was deleted or replaced while a process has the former file open: stop "
                "every process that uses either, then start them again."
            )
        generation = former.generation + (not goes_on)
        return Checkpoint(generation, txn, is_pinned, time.time(), boot.boot_id(), identity, page.data)

    def write(self, checkpoint: Checkpoint, *, with_turn: bool) -> None:
        """Make a checkpoint the last one, durably. The caller has the turn, or LMDB's write lock."""
        own = (0, 1) if with_turn else (2, 3)
        # What is not known to be durable goes first: the other one may be all that is on the disk.
        present = {found.place: (found.is_durable, found.checkpoint) for found in self._readable()}
        place = min(own, key=lambda place: present.get(place, (False, NO_CHECKPOINT))) * _PLACE_BYTES
        os.pwrite(self._own, checkpoint.packed() + bytes(len(_CONFIRMED)), place)
        os.fdatasync(self._own)
        os.pwrite(self._own, _CONFIRMED, place + _BYTES)

    def _readable(self) -> "list[_Found]":
        data = os.pread(self._own, _PLACES * _PLACE_BYTES, 0)
        places = [data[start : start + _PLACE_BYTES] for start in range(0, len(data), _PLACE_BYTES)]
        found = [(_unpacked(content), content.startswith(_CONFIRMED, _BYTES)) for content in places]
        return [_Found(one, is_durable, place) for place, (one, is_durable) in enumerate(found) if one is not None]

    # -- a failed disk ---------------------------------------------------------------------------------------------

    def failure(self) -> Failure | None:
        """Return the sync of this data file that has failed in this boot, if one has and nothing was done about it."""
        data = os.pread(self._own, _FAILURE_BYTES, _FAILURE_AT)
        if not data.startswith(_FAILURE_MAGIC) or data[_FAILURE.size :] != _CHECKSUM.pack(crc32(data[: _FAILURE.size])):
            return None
        _, at, boot_id, identity, reason = _FAILURE.unpack(data[: _FAILURE.size])
        if boot_id.rstrip(b"\0") != boot.boot_id().encode() or not any(identity) or identity != self.identity():
            return None
        return Failure(at, reason.rstrip(b"\0").decode(errors="replace"))

    def note_failure(self, failure: Failure) -> None:
        """Say that a sync has failed, for the processes of this boot, so it need not get to the disk.

        The data file says which one it is. What is noted already stays: whoever reads it must not find half of it.
        """
        if boot.boot_id() and self.failure() is None:
            reason = failure.reason.encode()
            body = _FAILURE.pack(_FAILURE_MAGIC, failure.at, boot.boot_id().encode(), self.identity(), reason)
            os.pwrite(self._own, body + _CHECKSUM.pack(crc32(body)), _FAILURE_AT)

    def clear_failure(self) -> None:
        """Say that all is on the disk again. The caller has the data file alone."""
        os.pwrite(self._own, bytes(_FAILURE_BYTES), _FAILURE_AT)

    # -- the sidecar itself ----------------------------------------------------------------------------------------

    def is_missing(self) -> bool:
        """Return whether the sidecar, and it alone, was deleted or replaced, as by whoever tidies up."""
        return not paths.is_same_file(self._path, self._own) and self.is_path_current()

    def is_path_current(self) -> bool:
        """Return whether the path still leads to the data file that is open here."""
        return paths.is_same_file(self._data_path, self.data)

    def recreate(self, mode: int) -> None:
        """Put a new one in the place of a sidecar that is gone, with what the former one says."""
        paths.create_sidecar(self._path, mode)
        former, renewed = self.last(), _open(self._path)
        fcntl.flock(renewed, fcntl.LOCK_EX)  # the turn, which the caller has on the former one
        os.dup2(renewed, self._own, inheritable=False)
        os.close(renewed)
        self.write(former, with_turn=True)

    def sync_folder(self) -> None:
        """Have a sidecar that is new be found after a loss of power."""
        with suppress(FileNotFoundError):  # with the folder the file is gone
            paths.sync_folder(os.path.dirname(self._path))

    # -- the data file ---------------------------------------------------------------------------------------------

    def metas(self) -> list[Meta]:
        """Return the metas of the data file, the later one last; fewer than two if it is new or damaged."""
        return sorted(found for found in meta.read_both(self.data) if found is not None)

    def identity(self) -> bytes:
        """Return which data file this is; zeros if it does not say."""
        return os.pread(self.data, IDENTITY_BYTES, IDENTITY_PLACE).ljust(IDENTITY_BYTES, b"\0")

    def ensure_identity(self) -> bytes:
        """Return which data file this is, and have it say so if it does not. The caller has LMDB's write lock."""
        identity = self.identity()
        if not any(identity):
            identity = os.urandom(IDENTITY_BYTES)
            os.pwrite(self.data, identity, IDENTITY_PLACE)
        return identity

    def is_of(self, checkpoint: Checkpoint) -> bool:
        """Return whether a checkpoint is one of this data file."""
        return any(checkpoint.identity) and checkpoint.identity == self.identity()

    def is_at(self, checkpoint: Checkpoint) -> bool:
        """Return whether the last commit of the data file is that of a checkpoint."""
        metas = self.metas()
        return bool(metas) and metas[-1].data == checkpoint.meta and self.is_of(checkpoint)

    # -- locks -----------------------------------------------------------------------------------------------------

    def try_lock_checkpoints(self) -> bool:
        """Return whether nobody else is making a checkpoint. Give the turn back with `unlock_checkpoints`."""
        return _locks(self._own)

    def unlock_checkpoints(self) -> None:
        """Let others make checkpoints."""
        fcntl.flock(self._own, fcntl.LOCK_UN)

    def lock_shared(self) -> None:
        """Say that the data file is in use, until `close`; wait while somebody mends it."""
        fcntl.flock(self.data, fcntl.LOCK_SH)

    def try_lock_exclusive(self) -> bool:
        """Keep others from using the data file, until `lock_shared` or `close`. Return whether nobody does already."""
        return _locks(self.data)


def _locks(descriptor: int) -> bool:
    """Return whether a file can be locked for this process alone now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
