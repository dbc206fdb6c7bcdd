"""The boot of the machine: what was written in an earlier one may have been cut off by a power failure."""

import functools

__all__ = ["boot_id"]


@functools.cache
def boot_id() -> str:
    """Return the id of the present boot; empty if the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
