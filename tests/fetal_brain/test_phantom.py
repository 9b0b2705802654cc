"""Synthetic stacks: the original's format, and the artefacts that make the task."""

import json

import numpy as np
import pytest

from common.data.phantoms import grid_points
from common.data.volumes import read_volume
from common.errors import OptionError
from common.files import sha256_of
from fetal_brain.config import CODE, PORT
from fetal_brain.data import find_cases, is_phantom, load_case
from fetal_brain.phantom import phantom
from fetal_brain.phantom_stack import BRAIN, SPACING_ZYX_MM, make_stack, move_slices

SHAPE = (8, 130, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantom"
    phantom(folder, cases=3, seed=5, shape=SHAPE)
    return folder


def test_the_list_is_the_originals(folder):
    lines = (folder / "phantom.csv").read_text().splitlines()
    assert lines[0] == "iFIND_id,image,segmentation"
    assert lines[1] == "PHANTOM0000,imgs/PHANTOM0000.nii.gz,seg/PHANTOM0000.nii.gz"
    assert len(lines) == 4


@pytest.mark.parametrize("config", [CODE, PORT])
def test_every_preset_accepts_the_cases(folder, config):
    cases = find_cases(folder / "phantom.csv")
    assert len(cases) == 3
    for case in cases:
        image, label = load_case(case, config)
        assert image.array.shape == label.shape == SHAPE
        assert image.array.dtype == np.int16
        assert set(np.unique(label)) == {0, 2, 9, 10}
        # [F9] What the original's reader needs of each volume.
        assert (label == 2).sum() > 1000
        assert (label != 2).sum() > 1000


def test_geometry_is_oblique_with_uneven_spacing(folder):
    geometry = read_volume(folder / "imgs" / "PHANTOM0001.nii.gz").geometry
    assert geometry.spacing_mm == pytest.approx((1.25, 1.25, 3.5))
    direction = np.reshape(geometry.direction, (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(direction) == pytest.approx(1, abs=1e-5)
    assert 0.01 < np.abs(direction - np.eye(3)).max() < 0.8


def test_the_folder_is_marked_as_synthetic(folder):
    assert is_phantom(folder / "phantom.csv")
    marker = json.loads((folder / "phantom.json").read_text())
    assert marker["synthetic"] is True
    assert marker["seed"] == 5
    assert len(marker["files"]) == 7


def hashes(folder):
    return {path.name + path.parent.name: sha256_of(path) for path in folder.rglob("*.nii.gz")}


def test_the_same_seed_gives_the_same_first_cases(folder, tmp_path):
    phantom(tmp_path / "p", cases=2, seed=5, shape=SHAPE)
    assert hashes(tmp_path / "p").items() <= hashes(folder).items()
    phantom(tmp_path / "p", cases=2, seed=6, shape=SHAPE)
    assert not hashes(tmp_path / "p").items() & hashes(folder).items()


def test_the_slices_move_more_between_than_within_the_interleaves():
    """The centre of the head seen by each slice; 40 stacks of 20 slices."""
    points = grid_points((20, 3, 3), SPACING_ZYX_MM)
    within, between = [], []
    for seed in range(40):
        moved = move_slices(points, np.zeros(3), np.random.default_rng(seed))
        shift = (moved - points)[:, 1, 1, 1:]
        between.append(np.abs(shift[1:] - shift[:-1]).mean())
        within.append(np.abs(shift[2:] - shift[:-2]).mean())
        distances = np.linalg.norm(moved[:, 0, 0] - moved[:, 2, 2], axis=-1)
        np.testing.assert_allclose(distances, distances[0], rtol=1e-4)  # rigid
    assert np.mean(between) > 1.5 * np.mean(within)
    assert np.mean(within) > 0.3


def test_brain_is_no_matter_of_a_threshold():
    """The best band of intensities, chosen with the answer at hand, stays far from it."""
    image, label = make_stack((16, 144, 144), np.random.default_rng(3))
    brain = label == BRAIN
    edges = np.quantile(image.array, np.linspace(0, 1, 21))
    best = 0.0
    for low in range(20):
        for high in range(low + 1, 21):
            band = (image.array >= edges[low]) & (image.array <= edges[high])
            best = max(best, 2 * (band & brain).sum() / (band.sum() + brain.sum()))
    assert best < 0.5


def test_brain_lies_within_the_uterus_and_leaves_slices_free():
    _, label = make_stack((16, 144, 144), np.random.default_rng(4))
    slices = (label == BRAIN).any(axis=(1, 2))
    assert 8 <= slices.sum() < 16
    assert (label == 9).sum() > 1000


@pytest.mark.parametrize("shape", [(3, 64, 64), (5, 200, 70)])
def test_other_shapes_hold_a_brain_too(shape):
    image, label = make_stack(shape, np.random.default_rng(1))
    assert image.array.shape == label.shape == shape
    assert (label == BRAIN).sum() > 10


@pytest.mark.parametrize(
    "options", [{"cases": 0}, {"seed": -1}, {"shape": (2, 144, 144)}, {"shape": (16, 144, 20)}]
)
def test_impossible_options_are_refused(tmp_path, options):
    with pytest.raises(OptionError, match="expected") as refusal:
        phantom(tmp_path / "p", **options)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "p").exists()


def test_foreign_content_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OptionError, match=r"mine\.txt, which no phantom wrote"):
        phantom(tmp_path, cases=1, shape=(3, 64, 64))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
