"""A network file on its own, without the run folder it came from: `predict --weights x.keras`."""

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from common.errors import OptionError, RunError
from common.files import as_yaml, plain, write_json, write_text_atomically

SUFFIX = ".keras"


def run_of_weights(paper: str, weights: Path, preset: str | None) -> Path:
    """Return the run folder of a network file: its own, or one made for this process.

    Of a file elsewhere nobody knows with which configuration it was trained: that of the first
    preset whose network has its shapes is taken, port before the others, and said on stderr.

    Args:
        paper: package name.
        weights: file ending in .keras.
        preset: the only one to try; None: all of the paper's.

    Raises:
        OptionError: the file is missing, or fits none.
    """
    path = Path(weights)
    if not path.is_file():
        raise OptionError(f"--weights {path}: no such file; expected the network of a run, .keras")
    if path.name == "model.keras" and (path.parent / "config.yaml").is_file():
        return path.parent
    presets = importlib.import_module(f"{paper}.config").PRESETS
    load = importlib.import_module(f"{paper}.serving").load_run_network
    folder = Path(tempfile.mkdtemp(prefix="weights-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.symlink(path.absolute(), folder / "model.keras")
    write_json(folder / "manifest.json", {"paper": paper, "status": "finished"})
    write_json(folder / "split.json", {"training": [], "validation": [], "test": []})
    tried = [preset] if preset else sorted(presets, key=lambda name: name != "port")
    for name in tried:
        stored = {"preset": name, **plain(presets[name])}
        write_text_atomically(folder / "config.yaml", as_yaml(stored))
        try:
            load(folder)
        except RunError:
            continue
        print(f"note: {path} says nothing of its configuration; preset {name} fits",
              file=sys.stderr)  # fmt: skip
        return folder
    raise OptionError(f"--weights {path}: fits no network of {paper}'s presets "
                      f"({', '.join(tried)}); expected --run with its run folder")  # fmt: skip
