"""The search with an exported network: the same finds as with a function, and refusals."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from common.cli import main
from common.data.geometry import Geometry
from common.data.volumes import read_volume, write_volume
from common.errors import OptionError, RunError
from common.export.passport import PASSPORT, describe_input, hash_files, without_tensors
from common.files import write_json
from vertebra.ask_server import config_of, open_served
from vertebra.config import QUICK
from vertebra.predict import predict, refuse_two_networks
from vertebra.traverse import traverse

CONFIG = replace(QUICK, patch_size=32, step=16, min_vol=20, spacing_mm=2.0)


def answer(image, memory):
    """Call the topmost bright box vertebra that is not remembered: rows of 8 slices."""
    free = (image > 1300) & (memory < 0.5)
    slices = np.flatnonzero(free.any(axis=(1, 2)))
    top = slices[-1] if len(slices) else 0
    mask = free & (np.arange(len(image)) > top - 8)[:, None, None]
    return np.where(mask, 0.9, 0.1).astype(np.float32), 0.8


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`answer` as a SavedModel, with the passport of an export."""
    import tensorflow as tf

    from common.export.saved_model import read_signatures

    folder = tmp_path_factory.mktemp("models") / "vertebra" / "1"
    window = [tf.TensorSpec((None,) * 3, tf.float32, name=name) for name in ("image", "memory")]

    @tf.function(input_signature=window)
    def serve(image, memory):
        free = (image > 1300.0) & (memory < 0.5)
        number = tf.range(tf.shape(image)[0])
        top = tf.reduce_max(tf.where(tf.reduce_any(free, (1, 2)), number, 0))
        mask = tf.where(free & (number > top - 8)[:, None, None], 0.9, 0.1)
        return {"mask": mask, "completeness": tf.constant([0.8])}

    module = tf.Module()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    entry = describe_input("CT", axes="ZYX", channels=["ct"], intensities="raw",
                           minimum_size=(32, 32, 32))  # fmt: skip
    write_json(
        folder / PASSPORT,
        {
            "schema": 1, "paper": "vertebra", "name": "vertebra", "version": 1,
            "inputs": {"image": entry, "memory": entry}, "labels": {0: "none", 1: "next"},
            "signatures": without_tensors(read_signatures(folder)),
            "whole_scan": {"signature": None, "command": "python -m vertebra predict",
                           "config": asdict(CONFIG)},
            "files": hash_files(folder),
        },
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Three boxes of 7 x 12 x 12 voxels, 4 slices apart."""
    path = tmp_path_factory.mktemp("scan") / "case1.nrrd"
    array = np.random.default_rng(0).integers(950, 1100, (40, 36, 40)).astype(np.int16)
    for low in (4, 15, 26):
        array[low : low + 7, 12:24, 14:26] = 1500
    write_volume(path, array, Geometry((2.0, 2.0, 2.0), (1.0, 2.0, 3.0)))
    return path


def test_every_find_is_that_of_the_search_with_a_function(exported, scan, tmp_path):
    predict(model=exported, image=scan, output_dir=tmp_path)
    found = read_volume(tmp_path / "case1_pred.nrrd")
    expected = traverse(read_volume(scan).array, answer, CONFIG)
    np.testing.assert_array_equal(found.array, expected.mask)
    assert found.geometry.origin_mm == (1.0, 2.0, 3.0)
    findings = json.loads((tmp_path / "case1_pred.json").read_text())
    assert (findings["scan"], findings["network"]) == ("case1.nrrd", str(exported))
    # Numbered from the top; each box in full.
    assert [int(found.array[low + 3, 18, 20]) for low in (26, 15, 4)] == [1, 2, 3]
    assert np.bincount(found.array.reshape(-1)).tolist()[1:] == [7 * 12 * 12] * 3


def test_windows_of_illegal_size_are_refused_before_they_are_sent(exported):
    with open_served(exported, None) as (ask, config):
        assert config == CONFIG
        with pytest.raises(Exception, match="which the network cannot take"):
            ask(np.zeros((32, 32, 20)), np.zeros((32, 32, 20)))


def test_options_that_do_not_go_together(exported, scan, tmp_path, capsys):
    with pytest.raises(OptionError, match="--weights and --model were both given"):
        refuse_two_networks(tmp_path, exported, None)
    words = ["predict", "--url", "grpc://localhost:8500", "--image", str(scan)]
    assert main("vertebra", argv=words) == 2
    assert "--url needs --model; expected the exported version" in capsys.readouterr().err
    options = {"model": exported, "output_dir": tmp_path}
    with pytest.raises(OptionError, match="--weights and --model need --test_dir or --image"):
        predict(**options)
    with pytest.raises(OptionError, match="the exported graph has per_site; expected these"):
        predict(**options, image=scan, inference_statistics="batch")
    assert not list(tmp_path.iterdir())


def test_a_passport_without_the_search():
    with pytest.raises(RunError, match="found no configuration of a search"):
        config_of({"whole_scan": {"signature": "volume"}}, "models/x/1")
    with pytest.raises(RunError, match="found no configuration of a search"):
        config_of({"whole_scan": {"config": {"colour": 1}}}, "models/x/1")
