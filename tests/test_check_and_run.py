"""What `prepare --check` calls a fault is what loading refuses, in the same words.

Each mistake is made in one file of an otherwise good case.
"""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.inspection import Entry
from common.errors import DataError
from dhcp_fetal import config as dhcp_config
from dhcp_fetal import data as dhcp_data
from dhcp_fetal import inspection as dhcp_inspection
from dhcp_fetal.session import CaseFiles
from fetal_brain import config as fetal_config
from fetal_brain import data as fetal_data
from fetal_brain import inspection as fetal_inspection
from raseg import config as raseg_config
from raseg import data as raseg_data
from raseg import inspection as raseg_inspection
from raseg.binaries import encode
from sarcoma import config as sarcoma_config
from sarcoma import data as sarcoma_data
from sarcoma import inspection as sarcoma_inspection
from vertebra import config as vertebra_config
from vertebra import data as vertebra_data
from vertebra import inspection as vertebra_inspection
from vertebra.preparation import crop_range
from vertebra.trees import on_working_grid

SHAPE = (12, 10, 8)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def save(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def edit(path, offset, layout, *values):
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def change(path, new, affine=AFFINE):
    array = np.asanyarray(nibabel.load(path).dataobj)
    save(path, new(array.copy()), affine)


def put(value, dtype=np.float32):
    def new(array):
        array = array.astype(dtype)
        array[1, 2, 3] = value
        return array

    return new


def shifted(mm):
    affine = AFFINE.copy()
    affine[0, 3] = mm
    return affine


SHEARED = AFFINE.copy()
SHEARED[0, 1] = 0.2
OF_ANY_FILE = {
    "in order": lambda path: None,
    "truncated": truncate,
    "missing": Path.unlink,
    "text": lambda path: path.write_text("id,image"),
    "colours": lambda path: edit(path, 70, "<h", 128),
    "offset": lambda path: edit(path, 108, "<f", 0),
    "longer": lambda path: edit(path, 42, "<h", 11),
    "NaN": lambda path: change(path, put(np.nan)),
    "infinite": lambda path: change(path, put(np.inf)),
    "sheared": lambda path: change(path, np.array, SHEARED),
    "negative size": lambda path: (edit(path, 254, "<h", 0), edit(path, 252, "<h", 1),
                                   edit(path, 80, "<f", -1.25)),
    "four axes": lambda path: change(path, lambda array: np.stack([array, array], -1)),
}  # fmt: skip
OF_LABELS = {
    "elsewhere": lambda path: change(path, np.array, shifted(5.0)),
    "another shape": lambda path: change(path, lambda array: array[:, :, 1:]),
    "fractions": lambda path: change(path, put(0.5)),
    "rounding": lambda path: change(path, put(0.99999988)),
    "negative": lambda path: change(path, put(-1, np.int16)),
    "huge": lambda path: change(path, put(2**31, np.float64)),
    "no position": lambda path: edit(path, 252, "<2h", 0, 0),
}
MISTAKES = [
    *(("image", name, how) for name, how in OF_ANY_FILE.items()),
    *(("labels", name, how) for name, how in (OF_ANY_FILE | OF_LABELS).items()),
]


@pytest.fixture
def files(tmp_path):
    """A scan and labels 1 and 2, the second one further up."""
    rng = np.random.default_rng(0)
    save(tmp_path / "case1.nii.gz", rng.integers(100, 900, SHAPE).astype(np.int16))
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:7, 3:7, 1:3] = 1
    labels[3:7, 3:7, 4:7] = 2
    save(tmp_path / "case1_label.nii.gz", labels)
    return {"image": tmp_path / "case1.nii.gz", "labels": tmp_path / "case1_label.nii.gz"}


def fetal_brain(files):
    config = replace(fetal_config.PORT, patch_shape=(3, 8, 8))
    listing = files["image"].parent / "list.csv"
    listing.write_text("id,image,label\nx,case1.nii.gz,case1_label.nii.gz\n")

    def load():
        (case,) = fetal_data.find_cases(listing)
        fetal_data.load_case(case, config)

    inspection = fetal_inspection.inspect_list(listing, config, listing.parent)
    return load, inspection.entries[0]


def dhcp_fetal(files):
    config = replace(dhcp_config.PORT, classes=3)
    case = CaseFiles((files["image"],), labels=files["labels"])
    entry = Entry("x")
    dhcp_inspection.inspect_case(entry, case, config)
    return lambda: dhcp_data.load_case(case, config), entry


def dhcp_fetal_mask(files):
    case = CaseFiles((files["image"],), mask=files["labels"])
    entry = Entry("x")
    dhcp_inspection.inspect_case(entry, case, dhcp_config.PORT)
    return lambda: dhcp_data.load_case(case, dhcp_config.PORT), entry


def vertebra(files):
    folder = files["image"].parent

    def load():
        for case in vertebra_data.find_source_cases(folder):
            _, labels = on_working_grid(case, vertebra_config.PORT, "csi")
            crop_range(labels.array, name=str(case.label_path))

    inspection = vertebra_inspection.inspect_dataset(folder, vertebra_config.PORT, folder)
    entry = Entry("all")
    for line in (*inspection.entries, *inspection.whole):
        entry.faults += line.faults
    return load, entry


def spoil_dataset(name, place, value):
    def how(path):
        with h5py.File(path, "a") as file:
            array = file[name][()].astype(np.float64)
            array[place] = value
            del file[name]
            file[name] = array

    return how


def drop(name):
    def how(path):
        with h5py.File(path, "a") as file:
            del file[name]

    return how


def reshape(name):
    def how(path):
        with h5py.File(path, "a") as file:
            array = file[name][()]
            del file[name]
            file[name] = array[1:]

    return how


@pytest.mark.parametrize(
    ("how", "is_refused"),
    [
        (lambda path: None, False),
        (spoil_dataset("label_data/A", (0, 0, 0), 1e-12), False),
        (spoil_dataset("label_data/A", (0, 0, 0), np.nan), True),
        (spoil_dataset("ct_data/A", (1, 2, 3), np.inf), True),
        (drop("pet_data/A"), True),
        (drop("label_data"), True),
        (reshape("label_data/A"), True),
        (lambda path: path.write_text("no HDF5"), True),
        (Path.unlink, True),
    ],
)
def test_check_and_run_agree_on_a_petct_file(tmp_path, how, is_refused):
    path = write_petct(tmp_path)
    how(path)
    refusal, faults = sarcoma(path)
    assert (refusal in faults) == bool(faults) == is_refused


def write_petct(folder):
    rng = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        for group in ("ct_data", "pet_data"):
            file[f"{group}/A"] = rng.normal(size=(4, 60, 58))
        file["label_data/A"] = (rng.random((4, 60, 58)) > 0.9) * 2
    return folder / "data.h5"


def sarcoma(path):
    """Return what a run says of a file, and all that the check says."""
    config = replace(
        sarcoma_config.PORT, training_patients=("A",), validation_patients=(), test_patients=()
    )

    def load():
        patients = sarcoma_data.find_patients(path, config)
        for patient in sarcoma_data.split_patients(patients, config)["training"]:
            loaded = sarcoma_data.load_patient(patient, config.modalities)
            sarcoma_data.window_of(patient, loaded.label)

    inspection = sarcoma_inspection.inspect_file(path, config, path.parent)
    lines = (*inspection.entries, *inspection.whole)
    return refusal_of(load), [fault for line in lines for fault in line.faults]


numbers = st.one_of(st.floats(), st.integers(-3, 3).map(float), st.sampled_from((1e-12, 0.9999)))
REPEATABLE = settings(derandomize=True, database=None, deadline=None, max_examples=60,
                      suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip


@given(
    name=st.sampled_from(("ct_data/A", "pet_data/A", "label_data/A")),
    place=st.sampled_from(((0, 0, 0), (3, 59, 57), slice(None), 2)),
    value=numbers,
)
@REPEATABLE
def test_check_and_run_agree_on_any_petct_values(tmp_path, name, place, value):
    path = write_petct(tmp_path)
    spoil_dataset(name, place, value)(path)
    refusal, faults = sarcoma(path)
    assert refusal in (faults or [None])


@pytest.mark.parametrize(
    ("place", "value", "is_refused"),
    [
        ((0, 1, 0, 0, 0), 1.0, False),
        ((0, 1, 0, 0, 0), 0.99999988, False),
        ((0, 1, 0, 0, 0), 0.5, True),
        ((0, 1, 0, 0, 0), 3.0, True),
        ((0, 1, 0, 0, 0), np.nan, True),
        ((0, 0, 0, 0, 0), np.nan, True),
        ((0, 0, 0, 0, 0), 70_000.0, True),
    ],
)
def test_check_and_run_agree_on_arrays(tmp_path, place, value, is_refused):
    refusal, faults = raseg(tmp_path, place, value)
    assert (refusal in faults) == bool(faults) == is_refused


@given(place=st.sampled_from(((0, 0), (1, 1), (0, 1, 7, 7, 3), (1, 0, 0, 0, 0))), value=numbers)
@REPEATABLE
def test_check_and_run_agree_on_any_values_of_arrays(tmp_path, place, value):
    refusal, faults = raseg(tmp_path, place, value)
    assert refusal in (faults or [None])


def raseg(folder, place, value):
    """Return what a run says of arrays with a value somewhere, and all that the check says."""
    config = replace(raseg_config.PORT, task="bme")
    pairs = np.random.default_rng(0).integers(1, 900, (2, 2, 8, 8, 4)).astype(np.float64)
    pairs[:, 1] = pairs[:, 1] > 500
    pairs[place] = value
    np.save(folder / "t2imgs_and_prereg_labels.npy", pairs)

    def load():
        volumes = raseg_data.open_volumes(folder, config)
        for number in range(len(volumes)):
            what = f"{folder}, volume {number}"
            encode(volumes.image(number), wrap=config.wrap_intensities, what=what)
            volumes.label(number)

    entries = raseg_inspection.inspect_arrays(folder, config, folder).entries
    return refusal_of(load), [fault for entry in entries for fault in entry.faults]


def refusal_of(load):
    """Return the line of a refusal, or None where there is none."""
    try:
        load()
    except DataError as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize("paper", [fetal_brain, dhcp_fetal, dhcp_fetal_mask, vertebra])
@pytest.mark.parametrize(("kind", "name", "how"), MISTAKES, ids=lambda value: str(value)[:20])
def test_check_and_run_agree(files, paper, kind, name, how):
    how(files[kind])
    load, entry = paper(files)
    assert refusal_of(load) in (entry.faults or [None])
    if name in ("in order", "rounding"):
        assert entry.faults == []
    if name in ("truncated", "missing", "colours", "offset", "longer", "NaN", "sheared"):
        assert entry.faults


@st.composite
def damage(draw):
    """A few edits of what a file says: header fields, voxels, its length."""
    kinds = ("header", "voxel", "cut", "tail")
    edits = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(kinds))
        offset = draw(st.integers(0, 351 if kind == "header" else 2000))
        edits.append((kind, offset, draw(st.binary(min_size=1, max_size=4))))
    return edits


def apply(edits, path):
    """Damage the unpacked content of a .nii.gz file."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for kind, offset, new in edits:
        if kind == "cut":
            del content[len(content) - offset % 300 :]
        elif kind == "tail":
            content += new
        else:
            place = offset if kind == "header" else 352 + offset % (len(content) - 352)
            content[place : place + len(new)] = new
    path.write_bytes(gzip.compress(bytes(content)))


@pytest.mark.slow
@pytest.mark.parametrize("paper", [fetal_brain, dhcp_fetal, dhcp_fetal_mask, vertebra])
@given(edits=damage(), kind=st.sampled_from(("image", "labels")))
@settings(derandomize=True, database=None, deadline=None, max_examples=150,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_check_and_run_agree_on_any_damage(files, paper, edits, kind):
    whole = {path: path.read_bytes() for path in files.values()}
    try:
        apply(edits, files[kind])
        load, entry = paper(files)
        assert refusal_of(load) in (entry.faults or [None])
    finally:
        for path, content in whole.items():
            path.write_bytes(content)
