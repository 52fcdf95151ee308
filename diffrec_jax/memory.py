"""How much memory this machine has left."""

import os


def free_memory() -> int | None:
    """Bytes that can be taken, with caches that give way; None where the system does not say."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with open("/proc/meminfo") as lines:  # counts reclaimable caches as free, which they are
            return max(free, next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    except (OSError, ValueError, StopIteration, AttributeError):
        return None
