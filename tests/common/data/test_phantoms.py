"""Shapes, fields and artefacts of synthetic scans, and the folder that keeps them."""

import numpy as np
import pytest

from common.data.phantoms import (
    MARKER,
    SmoothField,
    bias_field,
    ellipsoid_distance,
    fraction_inside,
    grid_points,
    make_smooth_field,
    paint,
    phantom_folder,
    read_marker,
    rician_noise,
    rotation_matrix,
)
from common.errors import DataError, OptionError


def test_grid_points_are_centred_and_scaled():
    points = grid_points((2, 3), (4.0, 0.5))
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points[..., 0], [[-2, -2, -2], [2, 2, 2]])
    np.testing.assert_array_equal(points[..., 1], [[-0.5, 0, 0.5], [-0.5, 0, 0.5]])


def test_rotations_by_a_right_angle():
    """About axis 0, axis 1 turns into axis 2; about axis 1, axis 2 into axis 0; and so on."""
    right = np.pi / 2
    np.testing.assert_allclose(rotation_matrix((right, 0, 0)) @ (0, 1, 0), (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(rotation_matrix((0, right, 0)) @ (0, 0, 1), (1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(rotation_matrix((0, 0, right)) @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    # Axis 0 first, then axis 2: 1 -> 2 -> 2.
    np.testing.assert_allclose(
        rotation_matrix((right, 0, right)) @ (0, 1, 0), (0, 0, 1), atol=1e-12
    )


def test_rotation_is_proper():
    matrix = rotation_matrix((0.3, -1.2, 2.0))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_smooth_field_of_one_wave_is_a_cosine():
    field = SmoothField(
        wave_vectors=np.array([[np.pi, 0]], np.float32), phases=np.zeros(1, np.float32)
    )
    values = field(np.array([[0, 7], [1, 7], [0.5, 0]]))
    np.testing.assert_allclose(values, [np.sqrt(2), -np.sqrt(2), 0], atol=1e-6)


def test_smooth_fields_have_zero_mean_and_unit_variance():
    """800 fields at one point: standard error of the mean 0.035, of the variance 0.05."""
    rng = np.random.default_rng(3)
    values = [make_smooth_field(rng, wavelength_mm=10)(np.array([1, 2, 3])) for _ in range(800)]
    assert abs(np.mean(values)) < 0.14
    assert abs(np.var(values) - 1) < 0.2


def test_smooth_field_is_as_smooth_as_its_wavelength():
    field = make_smooth_field(np.random.default_rng(1), wavelength_mm=50.0)
    values = field(grid_points((1, 1, 400), (1, 1, 1)))[0, 0]
    assert np.abs(np.diff(values)).max() < 2 * np.pi / 50 * np.sqrt(2 * 16)
    assert values.std() > 0.3


def test_distance_to_a_ball_is_exact():
    points = np.array([[0, 0, 0], [3, 4, 0], [0, 0, 10], [0, 1, 0]], np.float32)
    distance = ellipsoid_distance(points, (0, 0, 0), (5, 5, 5))
    np.testing.assert_allclose(distance, [-5, 0, 5, -4], atol=1e-5)


def test_distance_along_the_axes_of_a_turned_ellipsoid():
    """The long axis 0 of the ellipsoid is turned into axis 1 by a right angle about axis 2."""
    turn = rotation_matrix((0, 0, np.pi / 2))
    points = np.array([[1, 12, 0], [3, 0, 0], [1, 0, 0]], np.float32)
    distance = ellipsoid_distance(points, (1, 0, 0), (10, 2, 2), rotation=turn)
    np.testing.assert_allclose(distance, [2, 0, -2], atol=1e-5)


def test_wobble_scales_the_radius_by_the_field():
    constant = SmoothField(
        wave_vectors=np.zeros((1, 3), np.float32), phases=np.zeros(1, np.float32)
    )
    distance = ellipsoid_distance(
        np.array([[8, 0, 0]]), (0, 0, 0), (4, 4, 4), wobble=0.25, field=constant
    )
    np.testing.assert_allclose(distance, [8 - 4 * (1 + 0.25 * np.sqrt(2))], rtol=1e-6)


def test_fraction_inside_is_a_ramp():
    np.testing.assert_allclose(
        fraction_inside(np.array([-3.0, -1.0, 0.0, 0.5, 1.0, 9.0]), 2.0), [1, 1, 0.5, 0.25, 0, 0]
    )


def test_paint_mixes_in_place():
    image = np.array([10.0, 10.0, 10.0])
    paint(image, 20.0, np.array([0, 0.5, 1]))
    np.testing.assert_allclose(image, [10, 15, 20])


def test_bias_field_is_positive_and_its_logarithm_has_the_strength():
    rng = np.random.default_rng(5)
    point = np.zeros((1, 3))
    gains = np.array([bias_field(point, rng, strength=0.2, wavelength_mm=300) for _ in range(800)])
    assert gains.min() > 0
    assert np.log(gains).std() == pytest.approx(0.2, rel=0.1)


def test_rician_noise_has_the_moments_of_a_rayleigh_and_a_gaussian():
    """Without signal the mean is sigma*sqrt(pi/2); the mean square is signal² + 2 sigma²."""
    rng = np.random.default_rng(7)
    silent = rician_noise(np.zeros(100_000, np.float32), rng, sigma=3.0)
    assert silent.mean() == pytest.approx(3 * np.sqrt(np.pi / 2), rel=0.01)
    loud = rician_noise(np.full(100_000, 50, np.float32), rng, sigma=3.0)
    assert np.mean(loud**2) == pytest.approx(2500 + 18, rel=0.002)
    assert loud.std() == pytest.approx(3, rel=0.02)


def write(out, text="a", name="scan.txt"):
    with phantom_folder(out, generator="test", seed=4, facts={"cases": 1}) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / name).write_text(text)


def test_folder_is_marked_and_may_be_replaced(tmp_path):
    out = tmp_path / "new" / "phantom"
    assert read_marker(out) is None
    write(out)
    assert read_marker(out) == {
        "synthetic": True,
        "generator": "test",
        "seed": 4,
        "cases": 1,
        "files": ["deep/scan.txt"],
    }
    write(out, text="b", name="other.txt")
    assert sorted(path.name for path in out.rglob("*")) == ["deep", "other.txt", MARKER]
    assert [path.name for path in out.parent.iterdir()] == ["phantom"]


@pytest.mark.parametrize("place", ["mine.txt", "deep/mine.txt"])
def test_folder_with_foreign_content_is_refused(tmp_path, place):
    out = tmp_path / "phantom"
    write(out)
    (out / place).write_text("precious")
    with pytest.raises(OptionError, match=r"mine\.txt, which no phantom wrote") as refusal:
        write(out, text="b")
    assert "\n" not in str(refusal.value)
    assert (out / place).read_text() == "precious"
    assert (out / "deep/scan.txt").read_text() == "a"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "phantom").write_text("precious")
    with pytest.raises(OptionError, match="is a file; expected a folder"):
        write(tmp_path / "phantom")


def test_a_failure_leaves_what_was_there(tmp_path):
    out = tmp_path / "phantom"
    write(out)
    with pytest.raises(TypeError):
        write(out, text=b"bytes are no text")
    assert (out / "deep/scan.txt").read_text() == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written") as refusal:
        write(tmp_path / "file" / "phantom")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"synthetic": "yes"}', "\x00"])
def test_another_file_of_the_markers_name_is_no_marker(tmp_path, content):
    (tmp_path / MARKER).write_text(content)
    assert read_marker(tmp_path) is None
