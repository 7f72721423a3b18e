"""How the C library hands out memory to tensors on the CPU."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's mallopt(3)


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees; whether that could be arranged (Linux with glibc).

    Otherwise every large tensor is a new mapping whose pages the kernel must clear first: a third of the time of
    encoding a picture of 512 x 512. The price is that the process stays as large as it once was.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
