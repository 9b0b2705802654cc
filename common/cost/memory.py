"""Memory that this process may still take, and what it took at most.

psutil is imported where it is used: on Linux `bench-gpu` does without it.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

GIB = 2**30


def available_memory(
    membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> int:
    """Return the bytes that the machine and this process's control groups leave free."""
    return min([_psutil().virtual_memory().available, *_left_in_groups(membership, mount)])


def gpu_memory() -> int | None:
    """Return the free bytes of the GPU with the most of them; None where none is known."""
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        return max(int(line) for line in done.stdout.split()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def peak_memory() -> int:
    """Return the largest number of bytes this process has held in memory so far."""
    return _of_status("VmHWM")


def forget_peak() -> None:
    """Let `peak_memory` begin anew, where the kernel can; elsewhere it keeps the old peak."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_held() -> int:
    """Return the bytes this process holds in memory now."""
    return _of_status("VmRSS")


def _of_status(name: str) -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return _psutil().Process().memory_info().rss


def _psutil() -> Any:
    import psutil

    return psutil


def _left_in_groups(membership: Path, mount: Path) -> Iterator[int]:
    """Yield what every limited control group above this process has left, versions 1 and 2."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            root, names = mount, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = mount / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.lstrip("/")
        # Inside a container its own group is often the mounted root, whatever the path says.
        for group in [folder, *folder.parents]:
            if group.is_relative_to(root):
                yield from _left_in_group(group, *names)


def _left_in_group(group: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # no such file, or the word "max": no limit here
        left = int((group / limit).read_text()) - int((group / usage).read_text())
        pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # File pages that the kernel drops before it ends a process.
        yield max(left + int(pages.get(cache, 0)), 0)


def warn_of_memory(least: int, *, what: str) -> None:
    """Warn on stderr if so many bytes, which are certain to be needed, exceed what is free."""
    available = available_memory()
    if least > available:
        print(
            f"warning: {what} needs about {least / GIB:.1f} GiB of memory but only "
            f"{available / GIB:.1f} GiB is available; the process may be killed",
            file=sys.stderr,
            flush=True,
        )


def bytes_of(variables: Sequence[Any]) -> int:
    """Return the bytes of variables."""
    return sum(prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables)
