"""The page in a real browser: no complaints, nothing fetched, a viewer that shows and answers."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from common.suite.collect import build

pytestmark = pytest.mark.browser


def colours(png):
    """Return the picture (rows, columns, 3), 0 to 255."""
    return np.rint(imread(io.BytesIO(png))[..., :3] * 255).astype(int)


def test_the_page_works(make_run, open_browser, tmp_path):
    """One browser for everything, since starting it takes most of the time."""
    page = build([make_run(tmp_path / "run")], tmp_path / "report").resolve()
    with open_browser(tmp_path / "profile") as browser:
        browser.resize(1200, 900)
        browser.load(page.as_uri())
        shown = (
            "[...document.querySelectorAll('.view')].filter((v) => v.offsetHeight).map((v) => v.id)"
        )
        assert browser.run(shown) == ["overview"]
        browser.run("document.querySelector('a.paper[href=\"#raseg\"]').click()")
        browser.wait("!!document.querySelector('#raseg .viewer.ready')")
        assert browser.run(shown) == ["raseg"]

        mark = "document.querySelector('.viewer .mark')"
        assert browser.run(f"{mark}.textContent") == "PHANTOM, NOT A PATIENT"
        browser.run(f"{mark}.hidden = true")  # its colour is like that of a prediction
        browser.run("document.querySelector('.viewer').scrollIntoView()")
        browser.run("new Promise((done) => setTimeout(done, 300))")
        before = colours(browser.picture(".viewer canvas"))
        assert len(np.unique(before.reshape(-1, 3), axis=0)) > 100, "the canvas is blank"
        green, orange = (before @ weights > 25 for weights in ([-0.5, 1, -0.5], [1, -0.5, -0.5]))
        assert green.any(), "no agreement of reference and prediction is shown"
        assert orange.any(), "nothing of the prediction alone is shown"

        place = "document.querySelector('.place').textContent"
        first = browser.run(place)
        assert "reference 1" in first
        # The planes stand centred in a row: a click into the middle one moves the other two.
        box = browser.run(
            "(() => { const b = document.querySelector('.viewer canvas').getBoundingClientRect();"
            " return [b.x, b.y, b.width, b.height]; })()"
        )
        browser.click(box[0] + box[2] * 0.5 + 25, box[1] + box[3] * 0.35)
        browser.wait(f"{place} !== {first!r}")
        browser.run("new Promise((done) => setTimeout(done, 300))")
        after = colours(browser.picture(".viewer canvas"))
        left = slice(0, int(before.shape[1] * 0.4))
        assert (before[:, left] != after[:, left]).any(), "another plane did not follow"

        browser.run("document.querySelector('input[value=scan]').click()")
        browser.run("new Promise((done) => setTimeout(done, 300))")
        plain = colours(browser.picture(".viewer canvas"))
        assert not (plain @ [1, -0.5, -0.5] > 25).any(), "the labels cannot be taken away"

        browser.resize(390, 800)
        assert browser.run("document.documentElement.scrollWidth") <= 390
        assert browser.complaints == []
        assert browser.fetched == [page.as_uri()]
