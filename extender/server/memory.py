"""Memory that a large piece of data took goes back to the system when it is no longer needed."""

import ctypes

LARGE_BYTES = 1024 * 1024
"""What is larger has pages of its own, which the kernel must clear each time. What ordinary requests take
is smaller: half of this for the set of names in a scheduler's question about 5,000 nodes."""
SPARE_BYTES = 4 * LARGE_BYTES
"""What is smaller is given back only when this much of it is free: it will soon be wanted again."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's `malloc.h`."""


def give_back() -> None:
    """Tell glibc's malloc so, for the whole process and from now on; and give back what is free now.

    Left to itself it moves that limit up to 32 MiB as soon as large pieces have come and gone. Then
    they share pages with others, and a wave of large bodies leaves the process at its peak for good.
    Other C libraries have no such limit to be told of.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, SPARE_BYTES)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
