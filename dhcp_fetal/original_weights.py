"""Weights of the original engine: reading its checkpoints and laying them on the Keras model.

The engine numbers its variables by kind in the order of creation: normal pathway, contexts in the
order of their factors, fully connected blocks, softmax bias; the first of a kind has no number.
"""

import re
from pathlib import Path

import keras
import numpy as np

from common.errors import DataError
from common.network.original_weights import assign_by_name, read_tf_checkpoint

KINDS = {
    "gBn": ("norm", "gamma"),
    "bBn": ("norm", "beta"),
    "muBnsForRollingAverage": ("norm", "rolling_mean"),
    "varBnsForRollingAverage": ("norm", "rolling_variance"),
    "b": ("bias", "bias"),
    "aPrelu": ("prelu", "alpha"),
    "W": ("conv", "kernel"),
}
"""The original's base names: the ending of our layer's name and the variable in it."""

IGNORED = (
    re.compile(
        r"(net/sharedNew(Mu|Var)_B|trainer/(accu_grad_squared|velocities_for_mom|means_of_grads"
        r"|vars_of_grads|i_adam|num_epochs_trained|init_lr|init_mom|curr_lr_tfv|top_mean_val_acc"
        r"|ep_top_mean_val_acc|last_ep_lr_lowered))(_\d+)?$"
    ).match,
)
"""Statistics of the last batch, which nothing reads, and the state of the optimiser."""


read_original = read_tf_checkpoint
"""Reads a checkpoint of the engine: {original name: array}, kernels as [out, in, x, y, z]."""


def assign_original(model: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Lay the variables of `read_original` on a model, by number.

    Batch norm begins again at row 0, as the engine does in every process [G10].

    Raises:
        DataError: a variable of either side has no partner, or another shape.
    """
    targets = {
        name: (variable, to_keras if name.startswith("net/W") else None)
        for name, variable in name_variables(model)
    }
    assign_by_name(tensors, targets, ignored=IGNORED)
    for layer in model.layers:
        if layer.name.endswith("_norm"):
            layer.row.assign(0)


def to_keras(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel [out, in, x, y, z] as [x, y, z, in, out]."""
    return kernel.transpose(2, 3, 4, 1, 0)


def name_variables(model: keras.Model) -> list[tuple[str, keras.Variable]]:
    """Return (original name, variable) for all that the engine stores of its network."""
    blocks = list_blocks(model)
    return [
        (f"net/{base}_{number}" if number else f"net/{base}", getattr(layer, attribute))
        for base, (ending, attribute) in KINDS.items()
        for number, layer in enumerate(block[ending] for block in blocks if ending in block)
    ]


def list_trainable(model: keras.Model, *, compat: str) -> list[keras.Variable]:
    """Return the trainable variables in the order of the engine's optimiser slots. [D14]

    Slot j of the engine (`trainer/velocities_for_mom_j`) belongs to entry j where nothing is
    frozen. v0.7.0 puts a block's kernel first, v0.8.4 last.
    """
    ordered = []
    for block in list_blocks(model):
        own = [
            getattr(block[ending], attribute)
            for ending, attribute in KINDS.values()
            if ending in block and not attribute.startswith("rolling")
        ]
        kernel_first = compat == "v0.7.0" and "conv" in block
        ordered += own[-1:] + own[:-1] if kernel_first else own
    return ordered


def assign_slots(model: keras.Model, tensors: dict[str, np.ndarray], *, compat: str) -> None:
    """Give the compiled model's optimiser, already built, the state of a checkpoint's.

    The slots of the engine are numbered over the variables it trains [D14]; where layers are frozen
    the numbers close up. The epoch counter and rate of the checkpoint are not taken: here they are
    those of the run.

    Raises:
        DataError: the checkpoint is of another optimiser, or froze other layers.
    """
    optimiser = model.optimizer
    named = {
        "accu_grad_squared": getattr(optimiser, "squares", None),
        "velocities_for_mom": getattr(optimiser, "velocities", None),
    }
    if hasattr(optimiser, "means"):
        named = {"means_of_grads": optimiser.means, "vars_of_grads": optimiser.squares}
    trained = [v.path for v in model.trainable_variables]
    ordered = [v for v in list_trainable(model, compat=compat) if v.path in trained]
    pairs = []
    for base, slots in named.items():
        found = sum(name.startswith(f"trainer/{base}") for name in tensors)
        if found != len(slots or ()):
            raise DataError(
                f"checkpoint: found {found} slots {base}, expected {len(slots or ())}; "
                "give -resetopt to take the weights alone"
            )
        for number, variable in enumerate(ordered):
            if slots:
                slot = slots[trained.index(variable.path)]
                value = tensors[f"trainer/{base}" + (f"_{number}" if number else "")]
                value = to_keras(value) if value.ndim == 5 else value
                if tuple(slot.shape) != value.shape:
                    raise DataError(
                        f"checkpoint: slot {number} of {base} has shape {value.shape}, expected "
                        f"{tuple(slot.shape)} for {variable.path}; give -resetopt"
                    )
                pairs.append((slot, value))
    for slot, value in pairs:
        slot.assign(value)


def list_blocks(model: keras.Model) -> list[dict[str, keras.Layer]]:
    """Return each block's layers by the ending of their names, in the original's order."""
    blocks = {}
    for layer in model.layers:
        found = re.fullmatch(r"(normal|context|fc|softmax)_(?:(\d+)_)?(?:(\d+)_)?(\w+)", layer.name)
        if found is None or not layer.variables:
            continue
        pathway, first, second, ending = found.groups()
        place = ("normal", "context", "fc", "softmax").index(pathway)
        blocks.setdefault((place, int(first or 0), int(second or 0)), {})[ending] = layer
    return [blocks[place] for place in sorted(blocks)]


def original_shape(variable: keras.Variable) -> tuple[int, ...]:
    """Return the shape a variable has in the original: kernels [out, in, x, y, z]."""
    shape = tuple(variable.shape)
    return (shape[4], shape[3], *shape[:3]) if len(shape) == 5 else shape


def files_of(original: Path) -> list[Path]:
    """Return the files of a checkpoint given in any of its ways."""
    original = Path(original)
    if original.is_dir():
        return sorted(p for p in original.iterdir() if ".ckpt." in p.name)
    stem = re.sub(r"\.(index|data-\d+-of-\d+)$", "", original.name)
    return sorted(p for p in original.parent.glob(f"{stem}.*") if p.is_file())
