"""Where a run came from (command, code, packages, machine), and what differs between two runs."""

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "tensorflow",
    "keras",
    "tf-keras",
    "numpy",
    "scipy",
    "pandas",
    "SimpleITK",
    "nibabel",
    "h5py",
    "jsonargparse",
)
DECIDES_THE_BITS = ("packages", "python", "cpu", "cores", "git")
"""Facts that, when they change between two parts of one run, may change its numbers."""


def environment_facts() -> dict:
    """Describe this process, plain enough for JSON.

    Returns:
        command, pid, host, python, platform, cpu, cores (usable by this process), memory_gib,
        packages {name: version or None}, git {commit, dirty}.
    """
    import psutil

    return {
        "command": shlex.join(sys.orig_argv),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_state(Path(__file__).resolve().parents[1]),
    }


def usable_cores() -> int:
    """Return how many CPU cores this process may run on (its affinity mask, where there is one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def git_state(root: Path) -> dict:
    """Return the commit of the checkout at `root` and whether files differ from it.

    Args:
        root: folder of the code. A checkout further up (an environment inside another project)
            does not count.
    Returns:
        {"commit": 40 hex digits or None, "dirty": bool or None}; None where there is no git, no
        checkout or no commit yet.
    """
    unknown = {"commit": None, "dirty": None}
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return unknown
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    status = _git(root, "status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def first_difference(old: Any, new: Any, field: str = "") -> tuple[str, Any, Any] | None:
    """Find the first place where two values of plain JSON types differ.

    Args:
        old, new: nested dict, list, str, number, bool and None. A missing key counts as None.
        field: name of the place of both.
    Returns:
        Dotted name, old and new value; None where nothing differs.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{field}.{key}", old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{field}[{i}]", *pair) for i, pair in enumerate(zip(old, new, strict=True))]
    elif json.dumps(old) == json.dumps(new):
        return None
    else:
        return field.lstrip("."), old, new
    return next(filter(None, (first_difference(a, b, name) for name, a, b in pairs)), None)


def shown(value: Any) -> str:
    """Return a plain value as it stands in a message: JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
