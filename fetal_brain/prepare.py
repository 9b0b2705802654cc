"""Check, whiten and store the cases of a list ready for training."""

from pathlib import Path
from typing import Literal

from common.data.inspection import count_in_words
from common.data.nnunet import read_dataset
from common.data.tables import write_table
from fetal_brain.bids import find_bids_cases, write_list
from fetal_brain.config import Config, Preset
from fetal_brain.data import COLUMNS, find_cases
from fetal_brain.inspection import inspect_list
from fetal_brain.prepared import prepare_cases


def prepare(
    train_csv: Path,
    out: Path = Path("prepared"),
    *,
    config: Config,
    preset: Preset = "port",
    layout: Literal["list", "bids", "nnunet"] = "list",
    check: bool = False,
) -> None:
    """Check every case of a CSV list and store it ready for training.

    Cases that were stored before from the same files in the same way are kept.

    Args:
        train_csv: list with the columns id, image, segmentation, by position; for another layout
            the folder of the data set.
        out: folder of prepared cases, for the --prepared option of train; for another layout the
            list to write.
        config: label_ids, patch_shape and pad_small_volumes matter here.
        preset: where the numbers come from; options after it change single ones.
        layout: list; bids for a data set in BIDS layout, scans with masks in its derivatives; or
            nnunet for one of nnU-Net or the Medical Segmentation Decathlon. These become a list.
        check: only look: print everything that is wrong with any file, write nothing, and end with
            status 2 if anything keeps the data from being used.
    """
    if layout == "bids":
        cases = find_bids_cases(train_csv)
        write_list(cases, out)
        subjects = len({case.subject for case in cases})
        print(f"Listed: {count_in_words(len(cases), 'case')} of "
              f"{count_in_words(subjects, 'subject')} in {out}")  # fmt: skip
        return
    if layout == "nnunet":
        dataset = read_dataset(train_csv, channels=1)
        rows = [(case.id, *case.images, case.label) for case in dataset.labelled]
        write_table(out, COLUMNS, rows)
        print(f"Listed in {out}: {dataset.described}")
        return
    if check:
        inspect_list(train_csv, config, out).conclude()
        return
    cases = prepare_cases(find_cases(train_csv), out, config)
    print(f"Prepared cases: {len(cases)} in {out}")
