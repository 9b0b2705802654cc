"""The presets: what each voice says where the others differ."""

from dataclasses import fields, replace

import pytest

from sarcoma.config import CODE, INFERENCE_FIELDS, PAPER, PORT, POSITIVE_SLICES, QUICK, Config


def test_constants_of_the_original():
    """train.py: what the code preset trains with."""
    assert (CODE.batch_size, CODE.epochs, CODE.learning_rate) == (18, 5, 1e-5)
    assert (CODE.split_index, CODE.min_delta, CODE.patience) == (33822, 3e-4, 2)
    assert CODE.architecture == "unet2d"
    assert CODE.modalities == ("ct",)


def test_windows_of_the_original():
    """163 training and 43 test slices."""
    lengths = {name: stop - start for name, (start, stop) in POSITIVE_SLICES.items()}
    assert sum(lengths[name] for name in CODE.training_patients) == 163
    assert sum(lengths[name] for name in CODE.test_patients) == 43


def test_paper_differs_from_code_only_where_it_says_something():
    differing = {f.name for f in fields(Config) if getattr(PAPER, f.name) != getattr(CODE, f.name)}
    assert differing == {
        "flip_labels", "augment_validation", "two_path", "context_init", "context_upsampling",
    }  # fmt: skip


def test_quick_is_the_port_made_small():
    """The same decisions; only sizes, steps and the rate are other."""
    differing = {f.name for f in fields(Config) if getattr(QUICK, f.name) != getattr(PORT, f.name)}
    assert differing == {
        "filters", "cascade_filters", "dilated_filters", "epochs", "steps_per_epoch",
        "learning_rate", "window_stride", "cascade_step",
    }  # fmt: skip


def test_presets_are_frozen_and_hashable():
    with pytest.raises(AttributeError):
        PORT.epochs = 3
    assert hash(replace(PORT, epochs=3)) != hash(PORT)
    assert set(INFERENCE_FIELDS) <= {field.name for field in fields(Config)}
