"""The weights and tiles with which the fetal network was recorded, drawn again.

`recorded.json` beside this file holds what the engine computed with them.
"""

import numpy as np

from common.study.microscope import Rebuilt, draw_weights
from dhcp_fetal.config import CODE
from dhcp_fetal.model import build_model
from dhcp_fetal.original_weights import assign_original, name_variables, original_shape
from dhcp_fetal.tiles import PaddedCase, border_means, cut_segment

NETWORK = "fetal"
WEIGHTS_SEED, VOLUME_SEED = 20260, 20261
VOLUME_SHAPE = (1, 78, 81, 76)
CORNERS = ((18, 20, 17), (0, 36, 31))
"""Of two tiles in the volume: one inside, one at borders."""
TILE = (45, 45, 45)
PATHWAYS = ("normal", "context_1", "context_2", "fc")


def rebuild() -> Rebuilt:
    """Return the published network (v0.7.0, cgm cfg) with the recorded weights, and two tiles."""
    model = build_model(CODE)
    shapes = {name: original_shape(variable) for name, variable in name_variables(model)}
    assign_original(model, draw_weights(shapes, WEIGHTS_SEED, draw))
    return Rebuilt(model, draw_tiles())


def draw(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw one variable in the engine's layout; rolling arrays are filled."""
    base = name.split("/")[1].split("_")[0]
    if base == "W":
        return random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    if base == "aPrelu":
        return random.uniform(0, 0.3, shape)
    if base == "gBn":
        return random.uniform(0.5, 1.5, shape)
    if base == "muBnsForRollingAverage":
        centre = random.uniform(-0.1, 0.1, (1, shape[1]))
        return centre + 0.05 * random.standard_normal(shape)
    if base == "varBnsForRollingAverage":
        centre = random.uniform(0.5, 1.5, (1, shape[1]))
        return centre * random.uniform(0.8, 1.2, shape)
    return random.uniform(-0.1, 0.1, shape)


def draw_tiles() -> list[np.ndarray]:
    """Return the tiles and their two contexts, (2, x, y, z, 1) float32 each."""
    random = np.random.RandomState(VOLUME_SEED)
    volume = (random.standard_normal(VOLUME_SHAPE) + 0.3).astype(np.float32)
    image = np.moveaxis(volume, 0, -1)
    case = PaddedCase(image, None, border_means(image).astype(np.float32), ((0, 0),) * 3)
    tiles = [cut_segment(case, corner, TILE, CODE, sampled=False) for corner in CORNERS]
    return [np.stack(parts) for parts in zip(*tiles, strict=True)]


def layer_of(block: str) -> str:
    """Return our layer for the engine's block: `path1_block0` is `context_1_1_conv`."""
    pathway, number = block.removeprefix("path").split("_block")
    return f"{PATHWAYS[int(pathway)]}_{int(number) + 1}_conv"
