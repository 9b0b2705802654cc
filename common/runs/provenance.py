"""Where a run came from (command, code, packages, machine), and what differs between two runs."""

import hashlib
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from common.papers import ROOT
from common.runtime import cpu_fact, usable_cores

PACKAGES = ("tensorflow", "keras", "tf-keras", "numpy", "scipy", "pandas", "SimpleITK", "nibabel",
            "h5py", "jsonargparse")  # fmt: skip
DECIDES_THE_BITS = ("packages", "python", "cpu", "cpu_flags", "cores", "variables", "git")
"""Facts that, when they change between two parts of one run, may change its numbers."""
VARIABLES = (
    "KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "TF_DETERMINISTIC_OPS", "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS", "TF_XLA_FLAGS", "XLA_FLAGS", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip
"""Environment variables by which a user may change the arithmetic."""


def environment_facts() -> dict:
    """Return what identifies this process: its command, code, packages and machine; plain."""
    return {
        "command": shlex.join(sys.orig_argv),
        "folder": os.getcwd(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_fact("model name") or platform.processor() or platform.machine(),
        "cpu_flags": vector_flags(cpu_fact("flags") or ""),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "packages": {name: package_version(name) for name in PACKAGES},
        "git": git_state(ROOT),
    }


def git_state(root: Path) -> dict:
    """Return the commit of the checkout at `root`, 40 hex digits, and whether files differ from it.

    Both are None where there is no git, no commit yet, or only a checkout further up (an
    environment inside another project).
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return {"commit": None, "dirty": None}
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    status = _git(root, "status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def vector_flags(flags: str) -> list[str]:
    """Return the vector instructions among a processor's flags, which choose its kernels."""
    kinds = ("sse4", "avx", "fma", "f16c", "amx")
    return sorted(flag for flag in set(flags.split()) if flag.startswith(kinds))


def differences(old: Any, new: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted name, old and new value of each place where two plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from differences(old.get(key), new.get(key), f"{field}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{field}[{i}]")
    elif json.dumps(old) != json.dumps(new):
        yield field.lstrip("."), old, new


def first_difference(old: Any, new: Any, field: str = "") -> tuple[str, Any, Any] | None:
    """Return what `differences` yields first; None where nothing differs."""
    return next(differences(old, new, field), None)


def shown(value: Any) -> str:
    """Return a plain value as it appears in a message: JSON, shortened."""
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


def package_version(package: str) -> str | None:
    """Return the version of an installed package, None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def hash_data_files(manifest: Mapping[str, Any]) -> str | None:
    """Return one SHA-256 over the names and contents of a run's data files; None: it has none."""
    files = manifest.get("data_files") or {}
    digest = hashlib.sha256()
    for name, sha in sorted((Path(path).name, entry["sha256"]) for path, entry in files.items()):
        digest.update(f"{name} {sha}\n".encode())
    return digest.hexdigest() if files else None
