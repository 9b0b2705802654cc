"""Resample, weigh, crop and split a data set into train and test folders."""

from pathlib import Path

from tqdm import tqdm

from common.data.inspection import count_in_words
from common.errors import WriteError
from common.files import write_folder_atomically
from common.runs.failures import Failures
from vertebra.config import Config, Layout, Preset
from vertebra.data import find_nnunet_cases, find_source_cases
from vertebra.inspection import inspect_dataset
from vertebra.preparation import split_ids
from vertebra.verse import find_verse_cases


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
        dataset: flat folder with case<id>.mhd and case<id>_label.mhd; VerSe's (--layout verse);
            or that of dataset.json (--layout nnunet).
        output_isotropic: the resampled tree; an earlier one is replaced.
        output_crop: the cropped tree; an earlier one is replaced.
        config: the fields under "Preparation" matter here.
        preset: where the numbers come from; options after it change single ones.
        layout: csi, or verse for the subject-based release of VerSe 2019 and 2020, whose labels
            are renumbered from the lowest vertebra upwards, or nnunet for a data set of nnU-Net.
        check: only look: print everything that is wrong with any scan or label file, write nothing,
            and end with status 2 if anything keeps the data from being used.
    """
    from vertebra.trees import begin_tree, prepare_case, refuse_foreign_tree

    if check:
        inspect_dataset(dataset, config, output_crop, layout=layout).conclude()
        return
    find = {"csi": find_source_cases, "verse": find_verse_cases, "nnunet": find_nnunet_cases}
    cases = find[layout](dataset)
    split = split_ids([case.number for case in cases], config)
    subset_of = {number: subset for subset, numbers in split.items() for number in numbers}
    for tree in (output_isotropic, output_crop):
        refuse_foreign_tree(tree)
    with (
        write_folder_atomically(output_isotropic, replace=True, error=WriteError) as whole,
        write_folder_atomically(output_crop, replace=True, error=WriteError) as cropped,
    ):
        for tree in (whole, cropped):
            begin_tree(tree, dataset, cases=cases, subset_of=subset_of, config=config)
        failures = Failures(len(cases), "case")
        for case in tqdm(cases, desc="prepare", unit="case"):
            subset = subset_of[case.number]
            with failures.of(case.id):
                prepare_case(case, (whole, cropped), subset=subset, config=config, layout=layout)
        failures.conclude(also="nothing is left, since the split is over all of them")
    for subset, numbers in split.items():
        listed = ", ".join(map(str, numbers)) or "none"
        print(f"{subset}: {count_in_words(len(numbers), 'case')}, numbers {listed}")
    print(f"Prepared: {output_crop}")
