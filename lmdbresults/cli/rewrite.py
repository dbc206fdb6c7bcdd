"""``lmdbresults rewrite``"""

import click

from lmdbresults.cli.opening import existing
from lmdbresults.cli.output import progress, say
from lmdbresults.store.lmdb.maintenance.rewrite import rewrite as write_anew

__all__ = ["rewrite"]


@click.command()
@click.argument("path")
def rewrite(path: str) -> None:
    """Write a file anew after the disk has failed, and have results be stored again.

    For a file that is refused because what was stored could not be written to the disk. No process may have it open,
    and the machine must not have been restarted since: then there is nothing to be done. Every record is compared with
    its checksum afterwards.
    """
    options = existing(path)
    with progress("writing") as report:
        size = write_anew(options, progress=report)
    if size:
        say(f"{options.path} is on the disk, all {size} bytes, and sound.")
    else:
        say(f"{options.path} needs nothing: it is put in order when it is opened.")
