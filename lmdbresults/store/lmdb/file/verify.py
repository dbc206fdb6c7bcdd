"""Whether a data file is sound, found out by a process that the caller can do without."""

import json

from lmdbresults.errors import FileDamaged
from lmdbresults.process.isolated import SubprocessFailed, run_isolated

__all__ = ["refuse_broken", "verify"]


def verify(path: str, *, timeout: float | None = None, live: bool = False, records: bool = True) -> list[str]:
    """Return a sentence for everything that is wrong with a data file and the records in it; [] if it is sound.

    It is read in a process of its own: LMDB's pages, then the records. If that process dies by a signal, or takes
    longer than ``timeout`` seconds, this is a problem of the file, and returned like the others. Nothing is changed.

    ``live`` says that others may be writing: then one snapshot is judged, which takes LMDB's locks. Without it the lock
    file is not touched, and the file must be one that nobody writes to. About 20 seconds for a million records.
    """
    arguments = [json.dumps({"path": path, "live": live, "records": records})]
    try:
        problems: list[str] = json.loads(
            run_isolated("lmdbresults.store.lmdb.maintenance.verify_worker", arguments, timeout=timeout)
        )
    except SubprocessFailed as error:
        return [f"{path} cannot be verified: the process that read it {error}."]
    return problems


def refuse_broken(path: str) -> None:
    """Raise `FileDamaged` if the pages of a file that others may be using are not in order."""
    problems = verify(path, live=True, records=False)
    if problems:
        raise FileDamaged(
            f"{path} is damaged: {problems[0]} Restore it from a backup, or have `lmdbresults salvage` get out what "
            "can be read."
        )
