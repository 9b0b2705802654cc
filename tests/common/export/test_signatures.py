"""Names, dtypes and open dimensions of every signature: clients are written against them."""

import re
from pathlib import Path

import pytest

from common.export.passport import read_passport, without_tensors
from common.export.saved_model import forced_xla, read_signatures
from common.export.versions import BATCHING, MODELS_CONFIG

pytestmark = pytest.mark.slow

SCAN, CLASSES, LABELS = "float32 ?,?,?", "float32 ?,?,?,2", "uint8 ?,?,?"
SIGNATURES = {
    "fetal_brain": {
        "serving_default": ({"image": SCAN}, {"labels": LABELS}),
        "probabilities": ({"image": SCAN}, {"probabilities": CLASSES}),
        "volume": ({"image": SCAN}, {"labels": LABELS, "probabilities": CLASSES}),
        "patches": (
            {"x": "float32 ?,3,?,?,1"},
            {"logits": "float32 ?,3,?,?,2", "y_prob": "float32 ?,3,?,?,2", "y_": "int64 ?,3,?,?"},
        ),
    },
    "raseg": {
        "serving_default": ({"image": CLASSES}, {"labels": LABELS}),
        "probabilities": ({"image": CLASSES}, {"probabilities": SCAN}),
        "volume": ({"image": CLASSES}, {"labels": LABELS, "probabilities": SCAN}),
        "logits": ({"images": "float32 ?,?,?,?,2"}, {"logits": "float32 ?,?,?,?,2"}),
    },
    "sarcoma": {
        "serving_default": ({"image": CLASSES}, {"labels": LABELS}),
        "probabilities": ({"image": CLASSES}, {"probabilities": SCAN}),
        "volume": ({"image": CLASSES}, {"labels": LABELS, "probabilities": SCAN}),
        "patches": ({"x": "float32 ?,56,56,2"}, {"y": "float32 ?,28,28,1"}),
    },
    "vertebra": {
        "serving_default": (
            {"image": SCAN, "memory": SCAN},
            {"mask": SCAN, "completeness": "float32 1"},
        ),
    },
    "dhcp_fetal": {
        "serving_default": ({"image": "float32 ?,?,?,1"}, {"labels": LABELS}),
        "probabilities": ({"image": "float32 ?,?,?,1"}, {"probabilities": CLASSES}),
        "volume": ({"image": "float32 ?,?,?,1"}, {"labels": LABELS, "probabilities": CLASSES}),
        "masked": (
            {"image": "float32 ?,?,?,1", "mask": "int16 ?,?,?"},
            {"labels": LABELS, "probabilities": CLASSES},
        ),
        "segments": (
            {"normal": "float32 ?,?,?,?,1", "context_1": "float32 ?,?,?,?,1"},
            {"probabilities": "float32 ?,?,?,?,2"},
        ),
    },
}


def write(tensors):
    """{"image": {"dtype": "float32", "shape": [None, 3]}} -> {"image": "float32 ?,3"}."""
    return {
        name: f"{tensor['dtype']} "
        + ",".join("?" if size is None else str(size) for size in tensor["shape"])
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("paper", SIGNATURES)
def test_signatures_are_those_that_are_documented(exported, paper):
    found = read_signatures(exported(paper).folder)
    assert {
        name: (write(sides["inputs"]), write(sides["outputs"])) for name, sides in found.items()
    } == SIGNATURES[paper]
    assert without_tensors(found) == read_passport(exported(paper).folder)["signatures"]


@pytest.mark.parametrize("paper", SIGNATURES)
def test_the_papers_card_names_them_all(paper):
    """Signatures, inputs and outputs; a word in backticks may stand for the row above."""
    card = (Path(__file__).parents[3] / paper / "README.md").read_text()
    (section,) = re.findall(r"^## Served$.*?(?=^## )", card, flags=re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", section, flags=re.MULTILINE)
    assert [name for name, _, _ in rows] == list(SIGNATURES[paper])
    for name, inputs, outputs in rows:
        for sides, text in zip(SIGNATURES[paper][name], (inputs, outputs), strict=True):
            named = set(re.findall(r"`(\w+)`", text))
            assert named <= sides.keys(), (name, text)
            assert named or text in ("the same", "both") or text.startswith("both,"), (name, text)


@pytest.mark.parametrize("paper", SIGNATURES)
def test_xla_is_not_forced(exported, paper):
    assert forced_xla(exported(paper).folder) == []


def test_forced_xla_is_seen(tmp_path):
    """One function that XLA must compile, called by another that it need not."""
    import tensorflow as tf

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32)])
        def serve(self, x):
            return {"y": tf.function(lambda x: x + 1, jit_compile=True)(x)}

    model = Model()
    tf.saved_model.save(model, str(tmp_path), signatures=model.serve)
    assert forced_xla(tmp_path)


def test_server_files_name_every_model(exported):
    names = sorted(SIGNATURES)
    for paper in names:
        exported(paper)
    models = exported(names[0]).folder.parents[1]
    text = (models / MODELS_CONFIG).read_text()
    assert [
        line.strip() for line in text.splitlines() if "name:" in line or "base_path" in line
    ] == [line for name in names for line in (f'name: "{name}"', f'base_path: "/models/{name}"')]
    assert "max_batch_size { value: 1 }" in (models / BATCHING).read_text()
