"""A work whose cases do what a case can do to its worker; workers import it by name."""

import os
import signal
import time
from functools import partial
from pathlib import Path

from common.errors import DataError, OptionError


def begin(log: str, word: str = ""):
    """Note that a process loaded, and return what works on a case."""
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    return partial(work, word=word)


def work(case: str, word: str) -> str:
    """Do what the case says; return it in capitals."""
    match case.split():
        case ["refuse"]:
            raise DataError("the scan has no voxels")
        case ["break"]:
            raise ZeroDivisionError("a bug")
        case ["end_all"]:
            raise OptionError("--run: no such network")
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["hang"]:
            time.sleep(3600)
        case ["kill_once", flag] if not Path(flag).exists():
            Path(flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case ["write", path]:
            Path(path).write_text(word)
    return case.upper() + word
