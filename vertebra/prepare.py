"""Resample, weigh, crop and split a data set into train and test folders."""

from pathlib import Path
from typing import TYPE_CHECKING

from vertebra.config import Config, Layout, Preset

if TYPE_CHECKING:
    from common.data.geometry import Volume
    from vertebra.data import Case


def prepare(
    dataset: Path = Path("CSI_dataset"),
    output_isotropic: Path = Path("isotropic_dataset"),
    output_crop: Path = Path("crop_isotropic_dataset"),
    *,
    config: Config,
    preset: Preset = "port",
    layout: Layout = "csi",
    check: bool = False,
) -> None:
    """Resample, weigh, crop and split a data set into train and test folders.

    Two trees of the same layout are written, <tree>/{train,test}/{img,seg,weight}: all of the
    resampled volumes, and those between the middle of the lowest and of the highest vertebra, which
    are trained and tested on. Nothing is left where a case is refused.

    Args:
        dataset: flat folder with case<id>.mhd and case<id>_label.mhd, or VerSe's (--layout verse).
        output_isotropic: the resampled tree; an earlier one is replaced.
        output_crop: the cropped tree; an earlier one is replaced.
        config: the fields under "Preparation" matter here.
        preset: where the numbers come from; options after it change single ones.
        layout: csi, or verse for the subject-based release of VerSe 2019 and 2020, whose labels
            are renumbered from the lowest vertebra upwards.
        check: only look: print everything that is wrong with any scan or label file, write nothing,
            and end with status 2 if anything keeps the data from being used.
    """
    if check:
        from vertebra.inspection import inspect_dataset

        inspect_dataset(dataset, config, output_crop, layout=layout).conclude()
        return
    from tqdm import tqdm

    from common.errors import DataError
    from common.files import write_folder_atomically
    from vertebra.data import find_source_cases
    from vertebra.preparation import split_ids
    from vertebra.verse import find_verse_cases

    cases = find_verse_cases(dataset) if layout == "verse" else find_source_cases(dataset)
    split = split_ids([case.number for case in cases], config)
    subset_of = {number: subset for subset, numbers in split.items() for number in numbers}
    for tree in (output_isotropic, output_crop):
        refuse_foreign_tree(tree)
    with (
        write_folder_atomically(output_isotropic, replace=True, error=DataError) as whole,
        write_folder_atomically(output_crop, replace=True, error=DataError) as cropped,
    ):
        for tree in (whole, cropped):
            begin_tree(tree, dataset, cases=cases, subset_of=subset_of, config=config)
        for case in tqdm(cases, desc="prepare", unit="case"):
            prepare_case(
                case,
                on_working_grid(case, config, layout),
                (whole, cropped),
                subset=subset_of[case.number],
                config=config,
            )
    for subset, numbers in split.items():
        print(f"{subset}: {len(numbers)} cases, numbers {', '.join(map(str, numbers))}")
    print(f"Prepared: {output_crop}")


TREE_ENTRIES = {"train", "test", "split.json", "phantom.json"}


def refuse_foreign_tree(folder: Path) -> None:
    """Raise `DataError` unless a folder is absent, empty or an earlier tree of ours."""
    from common.errors import DataError

    if folder.is_dir():
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in TREE_ENTRIES)
        if foreign:
            raise DataError(
                f"{folder} holds {foreign[0]}, which `prepare` does not write; expected a new"
                " folder or an earlier prepared one"
            )


def begin_tree(tree: Path, dataset: Path, *, cases, subset_of, config: Config) -> None:
    """Make the folders of a tree, its split.json and, for phantoms, their marker."""
    from common.data.phantoms import MARKER, read_marker
    from common.files import write_json

    for subset in ("train", "test"):
        for kind in ("img", "seg", "weight"):
            (tree / subset / kind).mkdir(parents=True)
    split = {
        subset: [case.id for case in cases if subset_of[case.number] == subset]
        for subset in ("train", "test")
    }
    write_json(tree / "split.json", {**split, "spacing_mm": config.spacing_mm})
    marker = read_marker(dataset)
    if marker is not None:
        write_json(tree / MARKER, {**marker, "files": []})


def prepare_case(
    case: "Case",
    grids: tuple["Volume", "Volume"],
    trees: tuple[Path, Path],
    *,
    subset: str,
    config: Config,
) -> None:
    """Write one case into both trees.

    Args:
        case: a source case.
        grids: scan and labels of `on_working_grid`.
        trees: of the resampled volumes and of the cropped ones.
        subset: train or test.
        config: uses the fields under "Preparation".

    Raises:
        DataError: the case cannot be cropped.

    Source: data/preprocessing.py.
    """
    from common.data.geometry import Geometry, Volume
    from vertebra.preparation import crop_range, crop_z, weight_map

    (image, labels), (whole, cropped) = grids, trees
    geometry = labels.geometry if config.keep_geometry else Geometry((1.0, 1.0, 1.0))
    weight = Volume(weight_map(labels.array, config), geometry)
    parts = {"img": image, "seg": labels, "weight": weight}
    low, high = crop_range(labels.array, name=str(case.label_path))
    for kind, volume in parts.items():
        write_part(whole / subset, case, kind, volume)
        cut = crop_z(volume, low, high, keep_geometry=config.keep_geometry)
        write_part(cropped / subset, case, kind, cut)


def on_working_grid(
    case: "Case", config: Config, layout: Layout = "csi"
) -> tuple["Volume", "Volume"]:
    """Return scan and labels of a source case on the isotropic grid, upright [V37].

    Raises:
        DataError: the case cannot be used (see `load_case`).
    """
    from vertebra.data import load_case
    from vertebra.preparation import make_isotropic, make_isotropic_mask, upright
    from vertebra.verse import label_upwards

    image, labels = load_case(case, config)
    if layout == "verse":
        labels = label_upwards(labels, case.label_path)
    if config.keep_geometry:
        image, labels = upright(image), upright(labels)
    return make_isotropic(image, config), make_isotropic_mask(labels, config)


def write_part(folder: Path, case: "Case", kind: str, volume: "Volume") -> None:
    """Write one volume of a case under the original's name."""
    from common.data.volumes import write_volume

    name = {
        "img": f"{case.id}.mhd",
        "seg": f"{case.id}_label.mhd",
        "weight": f"{case.id}_weight.nrrd",
    }[kind]
    write_volume(folder / kind / name, volume.array, volume.geometry, compress=True)
