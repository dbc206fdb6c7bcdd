"""Which boot of the machine this is: what was written in an earlier one may have been cut off by a loss of power."""

import functools

__all__ = ["boot_id"]


@functools.cache
def boot_id() -> str:
    """Return the id of the present boot; empty where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
