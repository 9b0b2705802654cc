"""What a worker does: loads once, then works on one case after the other."""

import functools
import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from common.cost.memory import forget_peak, peak_memory
from common.errors import DataError, UserError, WriteError, one_line
from common.runtime import THREADS, load_tensorflow_quietly

NAME = f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True)
class Job:
    """A work as it goes to the workers."""

    work: str
    """Tells it from others, and stays the same where `begin` comes as a copy with each case."""
    begin: Callable[[], Callable[[Any], Any]] = field(compare=False)
    """See `common.cohort.work.Begin`."""
    folder: str
    """Current folder of the command, so that relative paths mean the same."""
    threads: int
    """Within an operation."""
    tensorflow: bool


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    done: bool
    message: str
    """Why it failed."""
    result: Any
    seconds: float
    worker: str
    """Host and process."""
    peak_mib: int
    """Largest memory of the worker while it had the case."""


def work_on(job: Job, case: Any) -> Outcome:
    """Work on one case; runs in a worker.

    Raises:
        UserError: the work cannot go on with any case.
    """
    began = time.monotonic()
    forget_peak()
    done, message, result = True, "", None
    try:
        result = _begin(job)(case)
    except WriteError:
        raise
    except DataError as failure:
        done, message = False, one_line(failure)
    except UserError:
        raise
    except Exception as failure:  # one case may not end the work on all others
        traceback.print_exc()
        done, message = False, f"{type(failure).__name__}: {one_line(failure)}"
    seconds = time.monotonic() - began
    return Outcome(done, message, result, seconds, NAME, peak_memory() >> 20)


@functools.lru_cache(maxsize=1)  # a worker that outlives the command lets go of its network
def _begin(job: Job) -> Callable[[Any], Any]:
    os.chdir(job.folder)
    os.environ[THREADS] = str(job.threads)
    if job.tensorflow:
        load_tensorflow_quietly()
    return job.begin()
