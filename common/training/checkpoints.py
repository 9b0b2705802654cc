"""Everything a training run consists of, in one file that is either the old one or the new one.

`.keras` and `.weights.h5` files lack the states of random generators, metrics and callbacks, so a
run that goes on from them is another run. Here every variable is kept, by group and position.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from common.errors import RunError, one_line
from common.files import atomic_file

Groups = Mapping[str, Sequence[Any]]
"""Variables by group name ("model", "optimizer", ...), in an order that the program repeats."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    path: Path
    position: dict
    """Plain facts stored beside the variables, such as the step."""
    arrays: dict[str, list[np.ndarray]] = field(repr=False)
    """Values by group, in the order of the variables."""

    def assign(self, groups: Groups) -> None:
        """Give the variables of some groups the stored values; all fit, or none is assigned."""
        for name, variables in groups.items():
            stored = self.arrays.get(name, [])
            if len(stored) != len(variables):
                raise RunError(
                    f"{self.path} holds {len(stored)} variables of the {name}, "
                    f"expected {len(variables)}: it is another model's"
                )
            for array, variable in zip(stored, variables, strict=True):
                if array.shape != tuple(variable.shape):
                    raise RunError(
                        f"{self.path}: {variable.path} of the {name} has shape {array.shape}, "
                        f"expected {tuple(variable.shape)}: it is another model's"
                    )
        for name, variables in groups.items():
            for array, variable in zip(self.arrays[name], variables, strict=True):
                # numpy files know no bfloat16 or float8: they come back as raw bytes of that width.
                raw = array.dtype.kind == "V"
                variable.assign(array.view(getattr(ml_dtypes, variable.dtype)) if raw else array)


def write_checkpoint(path: Path, groups: Groups, position: Mapping) -> float:
    """Write all variables and the position, plain facts, atomically; return the seconds it took."""
    begin = time.perf_counter()
    arrays = {
        f"{name}/{index:05d}": np.asarray(variable)
        for name, variables in groups.items()
        for index, variable in enumerate(variables)
    }
    counts = {name: len(variables) for name, variables in groups.items()}
    header = json.dumps({"position": dict(position), "groups": counts})
    with atomic_file(path) as file:
        np.savez(file, header=np.array(header), **arrays)
    return time.perf_counter() - begin


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint, None where there is none; raise `RunError` if it is damaged."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            if any(member.compress_type for member in stored.zip.infolist()):
                raise ValueError("its arrays are compressed")  # they could be of any size
            header = json.loads(str(stored["header"]))
            arrays = {
                name: [stored[f"{name}/{index:05d}"] for index in range(count)]
                for name, count in header["groups"].items()
            }
            return Checkpoint(path, dict(header["position"]), arrays)
    except FileNotFoundError:
        return None
    except Exception as failure:  # numpy, the archive and JSON have errors of many kinds
        raise RunError(
            f"checkpoint {path} is damaged ({one_line(failure)}); remove it to begin the run again"
        ) from failure
