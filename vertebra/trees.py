"""The prepared trees: resampled and cropped volumes under the original's names."""

from pathlib import Path

from common.data.geometry import Geometry, Volume
from common.data.phantoms import MARKER, read_marker
from common.data.volumes import write_volume
from common.errors import DataError
from common.files import write_json
from vertebra.config import Config, Layout
from vertebra.data import SUBSETS, Case, load_case
from vertebra.preparation import crop_range, crop_z, make_isotropic, make_isotropic_mask, upright
from vertebra.verse import label_upwards
from vertebra.weighting import weight_map

TREE_ENTRIES = {*SUBSETS, "split.json", MARKER}
ENDINGS = {"img": ".mhd", "seg": "_label.mhd", "weight": "_weight.nrrd"}
"""Folders of a subset, and what follows the case's name in each."""


def refuse_foreign_tree(folder: Path) -> None:
    """Raise `DataError` unless a folder is absent, empty or an earlier tree of ours."""
    if folder.is_dir():
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in TREE_ENTRIES)
        if foreign:
            raise DataError(
                f"{folder} holds {foreign[0]}, which `prepare` does not write; expected a new"
                " folder or an earlier prepared one"
            )


def begin_tree(tree: Path, dataset: Path, *, cases, subset_of, config: Config) -> None:
    """Make the folders of a tree, its split.json and, for phantoms, their marker."""
    for subset in SUBSETS:
        for kind in ENDINGS:
            (tree / subset / kind).mkdir(parents=True)
    split = {
        subset: [case.id for case in cases if subset_of[case.number] == subset]
        for subset in SUBSETS
    }
    write_json(tree / "split.json", {**split, "spacing_mm": config.spacing_mm})
    marker = read_marker(dataset)
    if marker is not None:
        write_json(tree / MARKER, {**marker, "files": []})


def prepare_case(
    case: Case, trees: tuple[Path, Path], *, subset: str, config: Config, layout: Layout
) -> None:
    """Write scan, labels and weights of one case into the resampled and the cropped tree.

    Raises `DataError` where the case cannot be used or cropped. Source: data/preprocessing.py.
    """
    image, labels = on_working_grid(case, config, layout)
    whole, cropped = trees
    geometry = labels.geometry if config.keep_geometry else Geometry((1.0, 1.0, 1.0))
    weight = Volume(weight_map(labels.array, config), geometry)
    parts = {"img": image, "seg": labels, "weight": weight}
    low, high = crop_range(labels.array, name=str(case.label_path))
    for kind, volume in parts.items():
        cut = crop_z(volume, low, high, keep_geometry=config.keep_geometry)
        for tree, part in ((whole, volume), (cropped, cut)):
            path = tree / subset / kind / f"{case.id}{ENDINGS[kind]}"
            write_volume(path, part.array, part.geometry, compress=True)


def on_working_grid(case: Case, config: Config, layout: Layout) -> tuple[Volume, Volume]:
    """Return scan and labels of a source case on the isotropic grid, upright [V37]."""
    image, labels = load_case(case, config)
    if layout == "verse":
        labels = label_upwards(labels, case.label_path)
    if config.keep_geometry:
        image, labels = upright(image), upright(labels)
    return make_isotropic(image, config), make_isotropic_mask(labels, config)
