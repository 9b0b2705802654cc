"""Synthetic wrists: thin, enhancing, rare, repeatable, and marked as what they are."""

import errno
import json
import os

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from common.data.phantoms import read_marker
from common.errors import DataError, OptionError
from raseg.config import PORT
from raseg.data import open_volumes
from raseg.phantom import phantom
from raseg.phantom_wrist import make_wrist, spacing_of

SHAPE = (64, 64, 12)


@pytest.mark.parametrize("task", ["synovitis", "bme"])
def test_foreground_is_rare(task):
    for seed in range(3):
        _, label = make_wrist(SHAPE, np.random.default_rng(seed), task)
        assert 0.0005 < label.mean() < 0.05


def test_synovium_enhances_and_is_thin():
    """Contrast brightens it by half and more; half of it is within 2 mm of its edge, and but for
    one voxel in twenty all of it within 4.5 mm, where the layers of two bones meet."""
    (post, pre), label = make_wrist(SHAPE, np.random.default_rng(0), "synovitis")
    assert post[label == 1].mean() > 1.5 * pre[label == 1].mean()
    assert abs(post[label == 0].mean() / pre[label == 0].mean() - 1) < 0.15
    depth = distance_transform_edt(label, sampling=spacing_of(SHAPE))[label == 1]
    assert np.median(depth) < 2.0
    assert np.percentile(depth, 95) < 4.5


def test_brightness_alone_does_not_find_it():
    """Fat, marrow and vessels are as bright: the best threshold stays far below a good overlap."""
    (post, _), label = make_wrist(SHAPE, np.random.default_rng(1), "synovitis")
    scores = []
    for threshold in np.percentile(post, np.linspace(80, 99.9, 40)):
        found = post > threshold
        scores.append(2 * (found & (label == 1)).sum() / (found.sum() + label.sum()))
    assert max(scores) < 0.6


def test_files(tmp_path):
    phantom(tmp_path / "p", cases=2, seed=3, shape=SHAPE)
    volumes = open_volumes(tmp_path / "p", PORT)
    assert volumes.pairs.shape == (2, 2, *SHAPE)
    assert volumes.pre.shape == (2, *SHAPE)
    assert volumes.spacing_mm == pytest.approx(spacing_of(SHAPE))
    assert read_marker(tmp_path / "p")["synthetic"] is True
    names = {path.name for path in (tmp_path / "p").iterdir()}
    assert names == {"images_and_labels.npy", "pre_images.npy", "geometry.json", "phantom.json"}
    assert json.loads((tmp_path / "p" / "phantom.json").read_text())["cases"] == 2


def test_first_volumes_do_not_depend_on_the_number(tmp_path):
    phantom(tmp_path / "one", cases=1, seed=3, shape=(32, 32, 6))
    phantom(tmp_path / "two", cases=2, seed=3, shape=(32, 32, 6))
    one, two = (open_volumes(tmp_path / name, PORT) for name in ("one", "two"))
    np.testing.assert_array_equal(one.image(0), two.image(0))
    assert (two.image(0) != two.image(1)).any()


def test_foreign_files_are_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OptionError, match=r"mine\.txt"):
        phantom(tmp_path, cases=1, shape=(32, 32, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cases": 0}, "--cases: found 0"),
        ({"seed": -1}, "--seed: found -1"),
        ({"shape": (8, 64, 12)}, "--shape: found"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        phantom(tmp_path / "p", **options)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    """Without its space reserved, the process ended at the first write through a memory map."""

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(DataError) as refusal:
        phantom(tmp_path / "p", cases=1, shape=(32, 32, 6))
    assert str(refusal.value) == f"{tmp_path / 'p'} cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == []
