"""Small run folders with real reports, and a headless browser."""

import browser
import numpy as np
import pytest

from common.evaluation.run_report import MEASURES, write_evaluation
from common.report.page import Figure
from common.report.viewer.embed import ViewedCase
from common.runs.folder import load_run, open_run
from common.runs.log import write_log

LABELS = {"raseg": "foreground", "fetal_brain": "brain", "vertebra": "vertebra"}


def ball(centre, radius, size=24):
    """A ball in a cube of voxels, 0 and 1."""
    points = np.indices((size,) * 3) - np.reshape(centre, (3, 1, 1, 1))
    return (np.sqrt((points**2).sum(axis=0)) <= radius).astype(np.uint8)


def make_run(
    folder, paper="raseg", *, dice=(0.5, 0.7, 0.9), phantom=True, cohort=None, preset="quick"
):
    """Make a run folder with the report of three cases, as `evaluate` does.

    Returns:
        The folder.
    """
    options = {"preset": preset}
    with open_run(folder, paper=paper, options=options, config={"width": 4}, seed=7) as run:
        run.record(phantom=phantom)
        write_log(folder, [{"epoch": 1, "step": 5, "loss": 2.0}])
    label = LABELS[paper]
    rows = [
        {"id": f"case{number}", "in_training_set": False, "label": label, "status": "ok",
         **dict.fromkeys(MEASURES, 1.0), "dice": value}
        for number, value in enumerate(dice)
    ]  # fmt: skip
    scan = ball((12, 12, 12), 11) * 60 + np.random.default_rng(0).normal(60, 10, (24,) * 3)
    viewed = ViewedCase(
        "case0", scan, ball((12, 12, 12), 6), ball((12, 15, 12), 6), np.diag([1.0, 1.0, 2.0, 1.0])
    )
    write_evaluation(
        load_run(folder), rows, title=paper, curve=[("loss",)], phantom=phantom, cohort=cohort,
        overlays=[Figure(b"a picture", "Case <0>.")], viewed=viewed,
    )  # fmt: skip
    return folder


@pytest.fixture(name="make_run")
def fixture_make_run():
    """The function `make_run`."""
    return make_run


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A network file, and what Keras itself says of its layers."""
    import keras

    image = keras.Input((8, 8, None, 2), name="image")
    first = keras.layers.Conv3D(3, 3, padding="same", name="first")(image)
    first = keras.layers.BatchNormalization(name="norm")(first)
    first = keras.layers.Dropout(0.5, name="drop", seed=1)(first)
    both = keras.layers.Add(name="both")([first, keras.layers.Conv3D(3, 1, name="side")(image)])
    model = keras.Model(image, keras.layers.Conv3D(2, 1, name="logits")(both))
    path = tmp_path_factory.mktemp("network") / "model.keras"
    model.save(path)
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    return path, shapes, {layer.name: layer.count_params() for layer in model.layers}


@pytest.fixture(scope="session")
def open_browser():
    """`with open_browser(profile folder) as page`; skips where there is no Chromium."""
    program = browser.find_chromium()
    if program is None:
        pytest.skip(f"no browser: looked for {', '.join(browser.NAMES)} on the path")
    return lambda profile, **options: browser.open_browser(program, profile, **options)
