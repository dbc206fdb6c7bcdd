"""All exceptions of the package, grouped by the phase in which they are raised.

Each also derives from the builtin that a caller would expect (``StoreFull`` is an ``OSError``). Messages name the
setting or file, its present value and the cure.
"""

__all__ = [
    "AccessDenied",
    "ChordError",
    "ChordsInFlight",
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
    "QueueFull",
    "ReadOnlyPath",
    "RecordDamaged",
    "ResultError",
    "ResultTimeout",
    "SecurityError",
    "SerializationError",
    "StoreBusy",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "SymlinkRefused",
    "TargetExists",
    "TaskError",
    "TaskRevokedError",
    "TooManyReaders",
    "UnknownOption",
    "UnknownSerializer",
    "Unsupported",
    "WrongOwner",
]


class ResultError(Exception):
    """Raised when anything in this package fails: the base of all errors below."""


# -- Settings ----------------------------------------------------------------------------------------------------


class ConfigurationError(ResultError, ValueError):
    """Raised when a URL or an option is invalid, or contradicts how this process has the file open already."""


class UnknownOption(ConfigurationError):
    """Raised when an option does not exist; the message lists the existing ones."""


# -- Opening the file --------------------------------------------------------------------------------------------


class StoreError(ResultError):
    """Raised when an operation of a store fails: the base of the errors of opening and using its file."""


class OpenError(StoreError, OSError):
    """Raised when the file cannot be opened. Nothing has been changed."""


class FolderMissing(OpenError, FileNotFoundError):
    """Raised when the folder of the file is missing and may not be created, or where a file must exist, the file."""


class NotAFile(OpenError):
    """Raised when the path is a folder, pipe, socket or device, or a file with several hard links."""


class AccessDenied(OpenError, PermissionError):
    """Raised when the process lacks permission for the file, its lock file or their folder; or a server refuses access,
    as with a wrong password."""


class ReadOnlyPath(OpenError, PermissionError):
    """Raised when the file system is mounted read-only."""


class SymlinkRefused(OpenError):
    """Raised when the file or its lock file is a symbolic link, which another user could have planted."""


class WrongOwner(OpenError, PermissionError):
    """Raised when the file belongs to another user and the option ``mode`` does not allow sharing."""


class NotLMDB(OpenError):
    """Raised when the file is not an LMDB data file of format 0.9."""


class ForeignFile(OpenError):
    """Raised when the file is a valid LMDB file of another program."""


class NewerFormat(OpenError):
    """Raised when the file was written by a newer lmdbresults in a format that this version cannot read."""


class FileDamaged(OpenError):
    """Raised when the file is truncated or its structure is broken."""


class FileReplaced(OpenError):
    """Raised when the file was deleted or replaced while this process has the former file open."""


class LockUnavailable(OpenError):
    """Raised when LMDB cannot acquire its locks, as in containers that do not share a PID namespace."""


# -- Using the store ---------------------------------------------------------------------------------------------


class StoreClosed(StoreError, RuntimeError):
    """Raised when a store is used after ``close()``."""


class StoreFull(StoreError, OSError):
    """Raised when ``max_size`` or the disk is full, even after expired records have been removed.

    Reads, deletes and sweeps still work, and writes do again once there is space.
    """


class StoreBusy(StoreError, TimeoutError):
    """Raised when another transaction has held the write lock for longer than ``lock_timeout``. Nothing was written."""


class StoreUnavailable(StoreError, ConnectionError):
    """Raised when the server of a store does not serve, although it was tried for as long as ``retry_timeout`` says.

    What was to be written may have been written, if the connection was lost before the answer.
    """


class DiskFailed(StoreError, OSError):
    """Raised when the disk fails, and when an earlier fsync has failed, until that is repaired. Reads still work."""


class TooManyReaders(StoreError, RuntimeError):
    """Raised when live processes use all slots of the reader table."""


class NestedTransaction(StoreError, RuntimeError):
    """Raised when a thread starts a transaction on a store inside another one on the same store."""


class ForkedStore(StoreError, RuntimeError):
    """Raised in a forked child when the fork happened inside a transaction, or without Python's fork hooks."""


class TargetExists(StoreError, FileExistsError):
    """Raised when a backup or a salvage would overwrite an existing file."""


class QueueFull(StoreError):
    """Raised when a queue that refuses what exceeds its limits is full. Consume its messages, or raise the limits."""


class Unsupported(StoreError, AttributeError):
    """Raised when an engine lacks a capability, such as queues; ``hasattr`` returns False for it."""


class NotACounter(StoreError, ValueError):
    """Raised when ``incr`` finds a value that is not a decimal 64-bit integer."""


class ChordsInFlight(StoreError):
    """Raised when results are to be copied to where the open chords beside them cannot go."""


class RecordDamaged(StoreError):
    """Raised when a stored record does not match its checksum or cannot be decoded."""

    key: bytes = b""
    """The whole key, as far as it can be read; the message may quote only a part."""


# -- Payloads ----------------------------------------------------------------------------------------------------


class SerializationError(ResultError):
    """Raised when a payload cannot be encoded or decoded: the base of the errors below."""


class UnknownSerializer(SerializationError, ValueError):
    """Raised when the name of a serializer or a compression is unknown or its package not installed."""


class EncodeError(SerializationError, TypeError):
    """Raised when the chosen serializer cannot encode a value."""


class DecodeError(SerializationError, ValueError):
    """Raised when bytes do not match their content type."""


class ContentDisallowed(SerializationError):
    """Raised when a payload has a content type that the reader does not accept, such as pickle by default."""


class SecurityError(SerializationError):
    """Raised when a stored exception names something other than an exception class, as a forged result would."""


# -- Tasks -------------------------------------------------------------------------------------------------------


class ResultTimeout(ResultError, TimeoutError):
    """Raised when a result does not arrive in time. It may still arrive later."""


class TaskError(ResultError):
    """Raised when a task failed with an exception whose class is not imported here.

    The error is an instance of a subclass, created on the fly, with the name and module of the original class.
    """


class TaskRevokedError(ResultError):
    """Raised when a task was revoked before it finished."""


class ChordError(ResultError):
    """Raised when the body of a chord cannot run because a part failed or its result is missing."""


class NotRegistered(ResultError, LookupError):
    """Raised when the app does not know a task of that name."""


# -- Messages ----------------------------------------------------------------------------------------------------

#: Most characters of a key in a message: an id with its prefix fits.
_QUOTED = 100
#: How many of them are the end of a longer key, where ids differ.
_QUOTED_END = 30


def quoted(key: bytes) -> str:
    """Return a key for a message; a long one as its beginning, an ellipsis, its end and its length."""
    text = repr(key)
    if len(text) <= _QUOTED:
        return text
    return f"{text[: _QUOTED - _QUOTED_END]}...{text[-_QUOTED_END:]} ({len(key)} bytes)"


def described(value: object) -> str:
    """Return the repr of a value, or a note if its repr() raises."""
    try:
        return repr(value)
    except Exception as error:  # of a class of the user's
        return f"<{type(value).__qualname__} object, whose repr() raises {type(error).__name__}>"


def text_of(error: BaseException) -> str:
    """Return the text of an exception, or its arguments if its str() raises."""
    try:
        return str(error)
    except Exception:  # of a class of the user's
        return ", ".join(map(described, error.args))
