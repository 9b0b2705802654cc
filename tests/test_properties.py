"""The rooms that all papers share, under generated inputs: what holds for one holds for any."""

import csv
import io
import json
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common import cli
from common.data.geometry import Geometry, Volume, check_same_grid
from common.data.labels import inside, integer_labels, join_labels
from common.data.names import can_name_a_file, normal_id
from common.data.tables import read_table
from common.data.volumes import FORMATS, read_volume, write_volume
from common.errors import DataError
from common.evaluation.metrics import score_case
from common.evaluation.run_report import as_cell
from common.files import as_yaml, read_yaml
from common.inference.loops import join_tiles
from common.inference.windows import stitch_windows
from common.runs.folder import load_config, load_run, open_run
from sarcoma.config import PORT

settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("repeatable")

TYPES = ("uint8", "int16", "uint16", "int32", "float32", "float64")
HOSTILE = (
    "001", "1e5", "null", "~", "yes", "#1", "a: b", "[x]", "{y}", "- z", "2020-01-01", "0x1F",
    "=1+1", "ä ö", "'q'", '"d"', "!!python/name", "&a", "*a", "%d", "1_000", ".5", "NaN",
    "\U0001f600",
)  # fmt: skip
words = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12),
)
"""What people call cases, and what a reader of YAML, CSV or numbers could misunderstand."""


# ---- volumes


@st.composite
def volumes(draw):
    """Voxels of any stored type, and any right-handed or mirrored grid with oblique axes."""
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    numbers = {"width": 8 * dtype.itemsize, "allow_nan": False, "allow_infinity": False}
    elements = st.floats(**numbers) if dtype.kind == "f" else None
    array = draw(arrays(dtype, shape, elements=elements))
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    turn = np.radians(draw(st.floats(-30, 30)))
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    direction = rotation @ np.eye(3)[:, order] * signs
    spacing = draw(st.tuples(*[st.floats(0.1, 9)] * 3))
    origin = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return Volume(array, Geometry(spacing, origin, tuple(direction.ravel())))


@given(volumes(), st.sampled_from(sorted(FORMATS)), st.booleans())
def test_a_volume_read_is_the_volume_written(tmp_path, volume, ending, compress):
    path = tmp_path / f"scan{ending}"
    write_volume(path, volume.array, volume.geometry, compress=compress)
    found = read_volume(path)
    np.testing.assert_array_equal(found.array, volume.array)
    assert found.array.dtype == volume.array.dtype
    check_same_grid(found, volume, names=("found", "written"))
    np.testing.assert_allclose(found.geometry.spacing_mm, volume.geometry.spacing_mm, rtol=1e-5)
    np.testing.assert_allclose(found.geometry.direction, volume.geometry.direction, atol=1e-5)
    write_volume(path, found.array, found.geometry, compress=compress)
    again = read_volume(path)
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.geometry.origin_mm, found.geometry.origin_mm, atol=1e-6)


# ---- tables


@given(
    rows=st.lists(st.lists(words, min_size=3, max_size=3), min_size=1, max_size=5),
    delimiter=st.sampled_from(",;\t"),
    ending=st.sampled_from(("\n", "\r\n")),
    encoding=st.sampled_from(("utf-8", "utf-8-sig", "utf-16")),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
)
def test_a_table_has_the_cells_that_were_written(
    tmp_path, rows, delimiter, ending, encoding, quoting
):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=quoting)
    writer.writerows([["id", "image", "label"], *rows])
    (tmp_path / "list.csv").write_bytes(text.getvalue().encode(encoding))
    table = read_table(tmp_path / "list.csv")
    assert table.header.cells == ("id", "image", "label")
    assert [row.cells for row in table.rows] == [tuple(row) for row in rows]
    assert [row.line for row in table.rows] == list(range(2, len(rows) + 2))


# ---- labels


@given(arrays(np.int16, (2, 3, 4), elements=st.integers(-9, 300)), st.data())
def test_labels_are_the_integers_they_mean(labels, data):
    noise = data.draw(arrays(np.float64, labels.shape, elements=st.floats(-0.00099, 0.00099)))
    np.testing.assert_array_equal(integer_labels(labels + noise, "file"), labels)
    place = data.draw(st.tuples(*(st.integers(0, n - 1) for n in labels.shape)))
    off = labels.astype(np.float64)
    off[place] += data.draw(st.sampled_from((0.5, -0.3, 0.002, np.nan, np.inf)))
    with pytest.raises(DataError, match="expected integer ids"):
        integer_labels(off, "file")


@given(arrays(np.uint8, (3, 4), elements=st.integers(0, 9)), st.permutations(range(10)), st.data())
def test_joined_labels_are_what_each_voxel_says(labels, ids, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, 8), min_size=1, max_size=4)))
    groups = [
        tuple(ids[a:b])
        for a, b in zip([0, *cuts], [*cuts, data.draw(st.integers(9, 10))], strict=True)
    ]
    wanted = [
        [next((n for n, group in enumerate(groups) if value in group), 0) for value in row]
        for row in labels.tolist()
    ]
    np.testing.assert_array_equal(join_labels(labels, groups), wanted)


@given(arrays(np.bool_, (3, 4)), st.sampled_from((1, 255, 65535, -3, 0.5, 1e-12, 1e30)))
def test_whatever_is_not_zero_is_inside(mask, value):
    dtype = np.float64 if isinstance(value, float) else np.int32
    np.testing.assert_array_equal(inside(mask * np.array(value, dtype), "file"), mask)


# ---- windows


@given(st.data())
@settings(max_examples=25)
@pytest.mark.slow
def test_windows_give_every_voxel_back(data):
    """The mean over all windows of what is in them is what was there."""
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * 3))
    window = [data.draw(st.integers(1, n)) for n in shape]
    stride = [data.draw(st.integers(1, n)) for n in window]
    scan = np.arange(np.prod(shape), dtype=np.float32).reshape(*shape, 1)
    found = stitch_windows(
        tf.constant(scan), lambda windows: windows, window=window, stride=stride,
        batch_size=data.draw(st.integers(1, 3)), channels=1,
    )  # fmt: skip
    np.testing.assert_allclose(found, scan, rtol=1e-6)


@given(st.tuples(*[st.lists(st.integers(1, 3), min_size=1, max_size=3)] * 3))
@settings(max_examples=25)
def test_tiles_cover_every_voxel_once(sizes):
    edges = [np.cumsum([0, *axis]) for axis in sizes]
    volume = np.arange(np.prod([axis[-1] for axis in edges]), dtype=np.float32)
    volume = volume.reshape([axis[-1] for axis in edges])
    computed = []

    def tile(*numbers):
        numbers = [int(n) for n in numbers]
        computed.append(tuple(numbers))
        part = tuple(slice(axis[n], axis[n + 1]) for axis, n in zip(edges, numbers, strict=True))
        return tf.constant(volume[part][..., np.newaxis])

    joined = join_tiles(tile, [tf.constant(axis, tf.int32) for axis in sizes], channels=1)
    np.testing.assert_array_equal(joined[..., 0], volume)
    assert sorted(computed) == list(product(*(range(len(axis)) for axis in sizes)))


# ---- identifiers


@pytest.mark.slow
@given(st.lists(words, min_size=1, max_size=3, unique=True))
@example(list(HOSTILE))
def test_ids_are_the_same_text_everywhere(tmp_path_factory, ids):
    """On the command line, in config.yaml, in split.json, and in the table of cases."""
    ids = [normal_id(word) for word in ids]
    assume(len(set(ids)) == len(ids) and all(map(can_name_a_file, ids)))
    words = ["--training_patients", json.dumps(ids, ensure_ascii=False), f"--run={ids[0]}"]
    _, _, values = cli.parse_command("sarcoma", "train", words, {})
    assert (values.training_patients, str(values.run)) == (tuple(ids), ids[0])
    if all(word.replace("-", "").replace(".", "").isalnum() for word in ids) and ids != ["null"]:
        typed = ["--training_patients", ",".join(ids)]
        _, _, values = cli.parse_command("sarcoma", "train", typed, {})
        assert values.training_patients == tuple(ids)
    folder = tmp_path_factory.mktemp("run")
    config = replace(PORT, training_patients=tuple(ids))
    with open_run(folder, paper="sarcoma", options={}, config=config, seed=0) as run:
        run.write_split({"test": [{"id": word} for word in ids]})
    assert load_config(folder, type(config)) == config
    assert [case["id"] for case in load_run(folder).read_split()["test"]] == ids
    table = pd.DataFrame({"id": [as_cell(word) for word in ids]}).to_csv(index=False)
    cells = [row[0] for row in csv.reader(io.StringIO(table))][1:]
    assert [cell.removeprefix("'") if cell[1:2] in "=+-@" else cell for cell in cells] == ids


values = st.one_of(words, st.lists(words, max_size=3), st.integers(), st.booleans(), st.none())


@given(st.dictionaries(st.sampled_from("abcd"), values, min_size=1))
def test_options_survive_their_file(tmp_path, options):
    (tmp_path / "config.yaml").write_text(as_yaml(options), encoding="utf-8")
    assert read_yaml(tmp_path / "config.yaml") == options


@pytest.mark.parametrize("preset", ["paper", "code", "port", "quick"])
def test_every_preset_survives_its_file(tmp_path, preset):
    for paper in ("dhcp_fetal", "fetal_brain", "raseg", "sarcoma", "vertebra"):
        module = __import__(f"{paper}.config", fromlist=["config"])
        config = module.PRESETS[preset]
        (tmp_path / "config.yaml").write_text(as_yaml(asdict(config)))
        assert load_config(tmp_path, module.Config) == config


# ---- metrics


def surface(mask):
    """Voxels of a mask with a face towards what is not in it, one by one."""
    inside = {tuple(voxel) for voxel in np.argwhere(mask)}
    steps = [tuple(sign * step) for step in np.eye(mask.ndim, dtype=int) for sign in (-1, 1)]
    return [v for v in inside if any(tuple(np.add(v, step)) not in inside for step in steps)]


masks = arrays(np.bool_, (3, 4, 3), elements=st.booleans())


@given(masks, masks, st.tuples(*[st.floats(0.3, 4)] * 3))
def test_measures_are_those_of_a_loop_over_voxels(found, truth, spacing):
    (row,) = score_case(found.astype(int), truth.astype(int), labels={"x": 1}, spacing_mm=spacing)
    both, total = (found & truth).sum(), found.sum() + truth.sum()
    np.testing.assert_allclose(row["dice"], 2 * both / total if total else np.nan)
    np.testing.assert_allclose(row["jaccard"], both / (found | truth).sum() if total else np.nan)
    voxel_ml = np.prod(spacing) / 1000
    np.testing.assert_allclose(row["volume_ml"], found.sum() * voxel_ml)
    np.testing.assert_allclose(
        row["volume_difference_ml"], (int(found.sum()) - int(truth.sum())) * voxel_ml, atol=1e-12
    )
    first, second = surface(found), surface(truth)
    if not first or not second:
        assert np.isnan([row["hd95_mm"], row["assd_mm"]]).all()
        np.testing.assert_equal(row["nsd_2mm"], 0.0 if first or second else np.nan)
        return
    apart = [[np.linalg.norm(np.subtract(a, b) * spacing) for b in second] for a in first]
    forth, back = np.min(apart, axis=1), np.min(apart, axis=0)
    hd95 = max(np.percentile(forth, 95), np.percentile(back, 95))
    np.testing.assert_allclose(row["hd95_mm"], hd95, atol=1e-12)
    np.testing.assert_allclose(row["assd_mm"], np.mean([*forth, *back]), atol=1e-12)
    assume(np.abs(np.concatenate([forth, back]) - 2).min() > 1e-9)  # where rounding decides
    assert row["nsd_2mm"] == np.mean(np.concatenate([forth, back]) <= 2)
