"""The folder of models that a server watches: versions, and the two files that configure it."""

import re
from pathlib import Path

from common.errors import OptionError
from common.files import explain_pattern, write_text_atomically

SERVABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
VERSION = re.compile(r"[0-9]{1,18}")
MODELS_CONFIG = "models.config"
BATCHING = "batching_parameters.txt"
SERVED_AT = "/models"
"""Where the container of TensorFlow Serving has the folder; its paths must be absolute."""

BATCHING_TEXT = """\
# For tensorflow_model_server --batching_parameters_file=...; leave --enable_batching off.
# A signature takes one whole scan, whose first axis is not a batch: a server that merges requests
# would normalise two patients' scans as one. With this file a server that was started with
# --enable_batching refuses scans instead of mixing them. A client that wants batches sends them
# itself to the signature in the network's own shape (patches, logits, segments).
max_batch_size { value: 1 }
batch_timeout_micros { value: 0 }
num_batch_threads { value: 1 }
max_enqueued_batches { value: 1 }
"""


def version_folder(to: Path, name: str, version: int | None) -> Path:
    """Return where a version (None: the next one) of a model goes, <to>/<name>/<version>.

    Raises:
        OptionError: the number is below 1, the version exists, or name or path cannot be served.
    """
    if not SERVABLE.fullmatch(name):
        raise OptionError(
            f"--name: found {name[:150]!r}; expected up to 128 letters of ASCII, digits, _, - and "
            "., which folders, URLs and servers take, and no . or - at the start"
        )
    if version is not None and version < 1:
        raise OptionError(f"--version: found {version}; expected 1 or more")
    if reason := explain_pattern(to.absolute(), "saved model"):
        raise OptionError(f"--to: {reason}")
    folder = to / name / str(version or next_version(to / name))
    refuse_existing(folder)
    return folder


def refuse_existing(folder: Path) -> None:
    """Raise `OptionError` if a version is there already: a server may be serving it."""
    if folder.exists():
        raise OptionError(f"{folder} exists already; expected a new folder (or another --version)")


def next_version(folder: Path) -> int:
    """Return the number after the largest version folder of a model, 1 for the first."""
    return max(find_versions(folder), default=0) + 1


def find_versions(folder: Path) -> list[int]:
    """Return the numbers of a model's versions, rising."""
    return sorted(
        int(entry.name) for entry in Path(folder).glob("*") if VERSION.fullmatch(entry.name)
    )


def find_models(to: Path) -> list[str]:
    """Return the names of the models in a folder: its folders with a version that is whole."""
    return sorted({path.parents[1].name for path in Path(to).glob("*/*/saved_model.pb")
                   if VERSION.fullmatch(path.parent.name)})  # fmt: skip


def write_server_files(to: Path) -> None:
    """Rewrite models.config and batching_parameters.txt for all models of a folder."""
    entries = "".join(
        f'  config {{\n    name: "{name}"\n    base_path: "{SERVED_AT}/{name}"\n'
        '    model_platform: "tensorflow"\n  }\n'
        for name in find_models(to)
    )
    write_text_atomically(
        to / MODELS_CONFIG,
        f"# For a container that has this folder at {SERVED_AT}, and with\n"
        f"# --model_config_file={SERVED_AT}/{MODELS_CONFIG}; elsewhere put its absolute path.\n"
        f"model_config_list {{\n{entries}}}\n",
    )
    write_text_atomically(to / BATCHING, BATCHING_TEXT)
