"""Label maps: which cases, which ids, where they go, and what is printed about them."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tensorflow as tf

from common.data.geometry import Geometry, Volume
from common.data.volumes import read_volume, write_volume
from common.errors import DataError, OptionError
from common.inference.command import with_inference_of
from common.runs.folder import load_run, open_run
from fetal_brain.config import CODE, INFERENCE_FIELDS, PORT, QUICK, Config
from fetal_brain.data import Case, choose_cases
from fetal_brain.inference import on_volumes, segment_scan
from fetal_brain.labels import read_ids, write_ids
from fetal_brain.predict import LABELS, PROBABILITY, list_items, segment_case, summary_line

GRID = Geometry(spacing_mm=(1.25, 1.25, 3.5), origin_mm=(-7.0, 11.0, 2.0))
SHAPE = (4, 16, 24)
SMALL = replace(PORT, patch_shape=(3, 8, 8))


def network(windows, training=False):
    """Logits that take what is brighter than the mean for foreground, with certainty 0.75."""
    return tf.math.log(tf.where(windows > 0, [0.25, 0.75], [0.75, 0.25]))


def segment(config, *, with_probabilities=False):
    """Return the function that `predict` makes of that network."""
    return on_volumes(segment_scan, network, config, with_probabilities=with_probabilities)


@pytest.fixture
def case(tmp_path) -> Case:
    """A box of 4 x 8 x 12 bright voxels; its label has every second row of it."""
    image = np.full(SHAPE, 10, np.int16)
    image[:, 4:12, 6:18] = 90
    label = np.zeros(SHAPE, np.uint8)
    label[:, 4:12:2, 6:18] = 2
    label[0, 0, 0] = 9
    write_volume(tmp_path / "scan.nii.gz", image, GRID)
    write_volume(tmp_path / "label.nii.gz", label, GRID)
    return Case("a", tmp_path / "scan.nii.gz", tmp_path / "label.nii.gz")


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


class TestIds:
    @pytest.mark.parametrize(("config", "foreground"), [(SMALL, 2), (CODE, 1)])
    def test_written_ids(self, case, out, config, foreground):
        """[F8] The label file's ids, or the class numbers that the original writes."""
        config = replace(config, patch_shape=(3, 8, 8), window=(3, 16, 24))
        config = replace(config, window_stride=(1, 16, 24))
        segment_case(case, segment(config), config, out=out)
        found = read_volume(out / "a.nii.gz")
        assert found.array.dtype == np.int32
        expected = np.zeros(SHAPE, np.int32)
        expected[:, 4:12, 6:18] = foreground
        np.testing.assert_array_equal(found.array, expected)
        assert found.geometry == GRID
        assert [path.name for path in out.iterdir()] == ["a.nii.gz"]

    def test_classes_of_joined_ids_are_written_as_the_first_of_them(self):
        config = replace(PORT, label_ids=(0, (3, 1), 300))
        classes = np.array([[[0, 1, 2, 1]]], np.uint8)
        written = write_ids(classes, config)
        np.testing.assert_array_equal(written, [[[0, 3, 300, 3]]])
        assert written.dtype == np.int32
        as_the_code = write_ids(classes, replace(config, output_label_ids=False))
        np.testing.assert_array_equal(as_the_code, classes)

    @pytest.mark.parametrize("output_label_ids", [True, False])
    @pytest.mark.parametrize("label_ids", [(0, 2), (0, (1, 2, 3, 4)), (0, 9, (2, 10)), (5, 0)])
    def test_reading_is_the_reverse_of_writing(self, label_ids, output_label_ids):
        config = replace(PORT, label_ids=label_ids, output_label_ids=output_label_ids)
        classes = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % len(label_ids)
        read = read_ids(Volume(write_ids(classes, config), GRID), config)
        np.testing.assert_array_equal(read.array, classes)
        assert read.array.dtype == np.uint8
        assert read.geometry is GRID

    def test_maps_of_the_other_way_of_writing_are_read_too(self):
        """With (0, 2) a one can only be a class number, and a two only an id."""
        classes = np.array([[[0, 1, 1]]], np.uint8)
        for config in (PORT, CODE):
            for written in (classes, 2 * classes):
                read = read_ids(Volume(written, GRID), config)
                np.testing.assert_array_equal(read.array, classes)

    def test_other_labels_are_refused(self):
        volume = Volume(np.array([[[0, 2, 9]]]), GRID)
        with pytest.raises(DataError, match=r"^map\.nii\.gz: found the label 9; expected 0, 2 "):
            read_ids(volume, PORT, source="map.nii.gz")


class TestSegmentCase:
    def test_the_line_of_the_original(self, case, out):
        """384 voxels against 192 that lie within: 2 * 192 / 576."""
        line = segment_case(case, segment(SMALL), SMALL, out=out)
        assert line.startswith(f"Dice={2 / 3}; input_dim=(1, 4, 16, 24, 1); time=")
        assert line.endswith(f"; output_fn={out / 'a.nii.gz'};")

    def test_unknown_dice_and_dice_of_nothing(self):
        labels = np.zeros((2, 3, 4), np.uint8)
        path = Path("x.nii.gz")
        line = summary_line(path, labels, None, seconds=1.238)
        assert line == "Dice=-1.0; input_dim=(1, 2, 3, 4, 1); time=1.24; output_fn=x.nii.gz;"
        assert summary_line(path, labels, labels, seconds=0.0).startswith("Dice=nan; ")  # [F19]

    def test_probabilities_are_those_of_the_foreground(self, case, out):
        predicted = segment(SMALL, with_probabilities=True)
        segment_case(case, predicted, SMALL, out=out, probabilities=True)
        found = read_volume(out / "a_probability.nii.gz")
        assert found.array.dtype == np.float32
        assert found.geometry == GRID
        expected = np.full(SHAPE, 0.25, np.float32)
        expected[:, 4:12, 6:18] = 0.75
        np.testing.assert_allclose(found.array, expected, atol=1e-6)

    def test_both_forms_of_the_scans_header_are_written_back(self, case, out):
        """The label map lay where the qform says: 47 mm off for readers of the sform."""
        image = nibabel.load(case.image_path)
        moved = image.affine.copy()
        moved[:3, 3] += (30, -36, 0)
        image.set_sform(moved, code=2)
        nibabel.save(image, case.image_path)
        config = replace(SMALL, window=(3, 16, 24), window_stride=(1, 16, 24))
        scan = replace(case, label_path=None)
        predicted = segment(config, with_probabilities=True)
        segment_case(scan, predicted, config, out=out, probabilities=True)
        for name in ("a.nii.gz", "a_probability.nii.gz"):
            written = nibabel.load(out / name)
            np.testing.assert_array_equal(written.affine, moved.astype(np.float32))
            np.testing.assert_array_equal(written.get_qform(), image.get_qform())
            assert [int(written.header[f"{form}form_code"]) for form in "sq"] == [2, 1]
            assert (np.asanyarray(written.dataobj)[6:18, 4:12] > 0.5).all()

    def test_label_on_another_grid_is_refused_before_anything_is_written(self, case, out):
        label = read_volume(case.label_path)
        for array, geometry in (
            (label.array[:3], GRID),
            (label.array, replace(GRID, origin_mm=(0.0, 11.0, 2.0))),
        ):
            write_volume(case.label_path, array, geometry)
            with pytest.raises(DataError, match=r"scan\.nii\.gz and .*label\.nii\.gz: expected"):
                segment_case(case, segment(SMALL), SMALL, out=out)
        assert not list(out.iterdir())

    def test_scan_smaller_than_the_window_is_named(self, case, out):
        """[F11]"""
        config = replace(SMALL, pad_small_volumes=False, window=(3, 32, 16))
        with pytest.raises(DataError, match=r"scan\.nii\.gz: volume of \(4, 16, 24\) .* smaller"):
            segment_case(case, segment(config), config, out=out)
        assert not list(out.iterdir())

    def test_no_label_map_replaces_an_input(self, case):
        folder = case.image_path.parent
        list_items([case], folder, [LABELS])
        for case_id in ("scan", "label"):
            with pytest.raises(OptionError, match=rf"{case_id}\.nii\.gz there is a file to read"):
                list_items([replace(case, id=case_id)], folder / "x" / "..", [LABELS])

    def test_probabilities_do_not_replace_a_label_map(self, case, out):
        cases = [replace(case, id="x"), replace(case, id="x_probability")]
        list_items(cases, out, [LABELS])
        with pytest.raises(OptionError, match=r"x and x_probability would both be written to x_pr"):
            list_items(cases, out, [LABELS, PROBABILITY])


def test_inference_of_a_preset_leaves_the_network_alone():
    mixed = with_inference_of(QUICK, CODE, INFERENCE_FIELDS)
    for name in Config.__dataclass_fields__:
        origin = CODE if name in INFERENCE_FIELDS else QUICK
        assert getattr(mixed, name) == getattr(origin, name), name
    assert with_inference_of(mixed, QUICK, INFERENCE_FIELDS) == QUICK


class TestChooseCases:
    @pytest.fixture
    def record(self, tmp_path):
        """A run that held out two cases."""
        cases = [Case(name, tmp_path / f"{name}.nii.gz", tmp_path / "l.nii.gz") for name in "abc"]
        split = {"training": cases[:1], "validation": [], "test": cases[1:]}
        self.open(tmp_path / "run", split)
        return load_run(tmp_path / "run")

    def open(self, path, split):
        with open_run(path, paper="fetal_brain", options={}, config=QUICK, seed=0) as run:
            run.write_split(split)

    def choose(self, record, config=QUICK, **options):
        options = {"csv": None, "image": None, "all_rows": False, "mode": "EVAL", **options}
        return choose_cases(record, config, **options)

    def write_list(self, folder, names):
        for name in names:
            (folder / f"{name}.nii.gz").write_bytes(b"")
        rows = [f"{name},{name}.nii.gz,{name}.nii.gz" for name in names]
        (folder / "list.csv").write_text("\n".join(["id,image,segmentation", *rows]))
        return folder / "list.csv"

    def test_held_out_cases_of_the_run(self, record, tmp_path):
        cases = self.choose(record)
        assert [case.id for case in cases] == ["b", "c"]
        assert cases[0].label_path == tmp_path / "l.nii.gz"
        assert [case.label_path for case in self.choose(record, mode="PREDICT")] == [None, None]

    def test_last_rows_of_a_list(self, record, tmp_path):
        listing = self.write_list(tmp_path, "pqrst")
        config = replace(QUICK, held_out_cases=2)
        assert [case.id for case in self.choose(record, config, csv=listing)] == ["s", "t"]
        cases = self.choose(record, config, csv=listing, all_rows=True)
        assert [case.id for case in cases] == list("pqrst")
        many = self.choose(record, replace(QUICK, held_out_cases=9), csv=listing)
        assert [case.id for case in many] == list("pqrst")

    def test_a_single_scan(self, record, tmp_path):
        listing = self.write_list(tmp_path, "p")
        (case,) = self.choose(record, image=tmp_path / "p.nii.gz")
        assert (case.id, case.label_path) == ("p", None)
        with pytest.raises(OptionError, match="--image and --csv"):
            self.choose(record, image=tmp_path / "p.nii.gz", csv=listing)

    def test_nothing_to_do_is_said(self, record, tmp_path):
        listing = self.write_list(tmp_path, "pq")
        with pytest.raises(OptionError, match="no held-out cases; expected --csv with --all_rows"):
            self.choose(record, replace(QUICK, held_out_cases=0), csv=listing)
        self.open(tmp_path / "converted", {"training": [], "validation": [], "test": []})
        with pytest.raises(OptionError, match="converted has no held-out cases"):
            self.choose(load_run(tmp_path / "converted"))
        with pytest.raises(OptionError, match="--all_rows needs --csv"):
            self.choose(record, all_rows=True)
