"""The check of a whole data file, in a subprocess: a damaged page may end that."""

import json

from lmdbresults.errors import FileDamaged
from lmdbresults.process.isolated import SubprocessFailed, run_isolated

__all__ = ["refuse_broken", "verify"]


def verify(path: str, *, timeout: float | None = None, live: bool = False, records: bool = True) -> list[str]:
    """Return the problems of a data file and of the records in it, one sentence each; [] if it is sound.

    A subprocess reads LMDB's pages, then the records. If it is killed by a signal, or takes longer than ``timeout``
    seconds, that is a problem of the file, too. Nothing is changed.

    ``live``: other processes may write meanwhile; then one snapshot is checked, which takes LMDB's locks. Otherwise no
    process may write, and the lock file is not touched. Takes about 20 seconds for a million records.
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
    """Raise `FileDamaged` if the pages of a file are damaged. Other processes may use it meanwhile."""
    problems = verify(path, live=True, records=False)
    if problems:
        raise FileDamaged(
            f"{path} is damaged: {problems[0]} Restore it from a backup, or have `lmdbresults salvage` get out what "
            "can be read."
        )
