"""The boot of the machine, and the PID namespace of this process in it.

What was written in an earlier boot may have been cut off by a power failure. In another namespace, as that of another
container, process numbers mean other processes.
"""

import functools
import os

__all__ = ["boot_id", "pid_namespace"]


@functools.cache
def boot_id() -> str:
    """Return the id of the present boot; empty if the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def pid_namespace() -> int:
    """Return the number of the PID namespace of this process; 0 if the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
