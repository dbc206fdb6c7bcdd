"""Every exception of the package, grouped by the phase in which it is raised.

Each one also derives from the builtin that a caller would expect (``StoreFull`` is an ``OSError``), and its
message names the thing, its present value and the cure.
"""

__all__ = [
    "AccessDenied",
    "ChordError",
    "ConfigurationError",
    "ContentDisallowed",
    "DecodeError",
    "DiskFailed",
    "EncodeError",
    "FileDamaged",
    "FileReplaced",
    "FolderMissing",
    "ForeignFile",
    "ForkedStore",
    "LockUnavailable",
    "NestedTransaction",
    "NewerFormat",
    "NotACounter",
    "NotAFile",
    "NotLMDB",
    "NotRegistered",
    "OpenError",
    "ReadOnlyPath",
    "RecordDamaged",
    "ResultError",
    "ResultTimeout",
    "SecurityError",
    "SerializationError",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "SymlinkRefused",
    "TargetExists",
    "TaskError",
    "TaskRevokedError",
    "TooManyReaders",
    "UnknownOption",
    "UnknownSerializer",
    "WrongOwner",
]


class ResultError(Exception):
    """Raised when anything in this package fails: the base of every error below."""


# -- Settings ----------------------------------------------------------------------------------------------------


class ConfigurationError(ResultError, ValueError):
    """Raised when a URL or an option cannot be understood, or contradicts what the process already uses."""


class UnknownOption(ConfigurationError):
    """Raised when an option has a name that does not exist; the message lists those that do."""


# -- Opening the file --------------------------------------------------------------------------------------------


class StoreError(ResultError):
    """Raised when the store cannot do what it was asked: the base of the errors of the file and of its use."""


class OpenError(StoreError, OSError):
    """Raised when the file cannot be opened. Nothing has been changed by then."""


class FolderMissing(OpenError, FileNotFoundError):
    """Raised when neither the folder of the file nor the folder above it exists."""


class NotAFile(OpenError):
    """Raised when the path leads to a folder, a pipe, a socket or a device, or to a file of several names."""


class AccessDenied(OpenError, PermissionError):
    """Raised when the process lacks permission for the file, its lock file or their folder."""


class ReadOnlyPath(OpenError, PermissionError):
    """Raised when the file lies on a file system that is mounted read-only."""


class SymlinkRefused(OpenError):
    """Raised when the file or its lock file is a symbolic link, which somebody else could have planted."""


class WrongOwner(OpenError, PermissionError):
    """Raised when the file belongs to another user and sharing it was not asked for by ``mode``."""


class NotLMDB(OpenError):
    """Raised when the file has content that is no LMDB data file of the 0.9 format."""


class ForeignFile(OpenError):
    """Raised when the file is a sound LMDB file, of some other program."""


class NewerFormat(OpenError):
    """Raised when the file was written by a newer lmdbresults, in a format that this one cannot read."""


class FileDamaged(OpenError):
    """Raised when the file is shorter than it says, or its structure is broken."""


class FileReplaced(OpenError):
    """Raised when the file was deleted or replaced while this process still has the former one open."""


class LockUnavailable(OpenError):
    """Raised when LMDB cannot take its locks, as in containers that do not share a PID namespace."""


# -- Using the store ---------------------------------------------------------------------------------------------


class StoreClosed(StoreError, RuntimeError):
    """Raised when a store is used after ``close()``."""


class StoreFull(StoreError, OSError):
    """Raised when ``max_size`` or the disk leaves no room, after expired records have made way.

    Reading, deleting and sweeping go on; writing does too once there is room again.
    """


class DiskFailed(StoreError, OSError):
    """Raised when the disk has not taken what was stored before, and until that is mended. Reading goes on."""


class TooManyReaders(StoreError, RuntimeError):
    """Raised when every slot of the reader table is taken by a live process."""


class NestedTransaction(StoreError, RuntimeError):
    """Raised when a thread starts a transaction on a store inside another one on the same store."""


class ForkedStore(StoreError, RuntimeError):
    """Raised in a forked child when the fork happened inside a transaction, or unseen by Python."""


class TargetExists(StoreError, FileExistsError):
    """Raised when a backup or a salvage would write over a file that is there already."""


class NotACounter(StoreError, ValueError):
    """Raised when ``incr`` meets a value that is no decimal 64-bit integer."""


class RecordDamaged(StoreError):
    """Raised when what is stored under a key does not match its checksum or cannot be taken apart."""

    key: bytes = b""
    """The key, all of it, as far as it can be read; the message may quote a part."""


# -- Payloads ----------------------------------------------------------------------------------------------------


class SerializationError(ResultError):
    """Raised when a payload cannot be written or read: the base of the errors below."""


class UnknownSerializer(SerializationError, ValueError):
    """Raised when a serializer or a compression has a name that is unknown or not installed here."""


class EncodeError(SerializationError, TypeError):
    """Raised when a value cannot be encoded by the serializer that was chosen."""


class DecodeError(SerializationError, ValueError):
    """Raised when bytes are not what their content type says."""


class ContentDisallowed(SerializationError):
    """Raised when a payload has a content type that the reader does not accept (pickle, unless asked for)."""


class SecurityError(SerializationError):
    """Raised when a stored exception names something that is no exception class, as a forged result would."""


# -- Tasks -------------------------------------------------------------------------------------------------------


class ResultTimeout(ResultError, TimeoutError):
    """Raised when a result is not there in time. It may come later."""


class TaskError(ResultError):
    """Raised when a task failed with an exception whose class is not imported here.

    What is raised is a subclass with the name and the module of the original, made for the occasion.
    """


class TaskRevokedError(ResultError):
    """Raised when a task was revoked before it ended."""


class ChordError(ResultError):
    """Raised when the body of a chord cannot run, because a part failed or its result is gone."""


class NotRegistered(ResultError, LookupError):
    """Raised when a task is named that the app does not know."""
