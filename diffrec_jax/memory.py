"""How much memory this machine has left, and how much a process had."""

import os
import sys


def free_memory() -> int | None:
    """Bytes that can be taken, with caches that give way; None where the system does not say."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with open("/proc/meminfo") as lines:  # counts reclaimable caches as free, which they are
            return max(free, next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    except (OSError, ValueError, StopIteration, AttributeError):
        return None


def peak_memory() -> int:
    """The most memory this process had so far, in bytes; 0 where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_text(peak: int) -> str:
    """The same for a person."""
    return f"{peak / 2**30:.2f} GiB" if peak else "not known on this system"
