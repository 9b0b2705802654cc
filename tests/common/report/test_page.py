"""The page of a run: self-contained, honest about phantoms, with pictures of what is there."""

import io
import json
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread

from common.errors import RunError
from common.report.drawing import PHANTOM_COLOUR, draw_learning_curve, draw_overlay
from common.report.overlay import PREDICTION_COLOUR, REFERENCE_COLOUR, outline, picture_of_overlay
from common.report.page import (
    PHANTOM_NOTICE,
    Figure,
    Section,
    format_number,
    format_summary,
    read_sections,
    write_report,
    write_sections,
)

LOG = [
    {"epoch": 1, "step": 10, "loss": 2.0, "dice": 0.1},
    {"epoch": 2, "step": 20, "loss": 1.0, "dice": 0.4, "val_dice": 0.3},
]


@pytest.fixture(autouse=True)
def no_warnings():
    """A warning of the drawing library would be a line on the user's stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Page(HTMLParser):
    """The parts of a page that matter here."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]


def pixels(png):
    return imread(io.BytesIO(png))


def find_colour(picture, colour):
    """Return row and column of the pixels that have a colour."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.argwhere(np.abs(picture[..., :3] - rgb).max(axis=-1) < 0.02)


def write_page(path, *, phantom):
    figures = [Figure(b"first picture", "Case <1>."), Figure(b"second picture", "Case 2.")]
    sections = [
        Section("Numbers", header=["case", "Dice"], rows=[["a & b", "0.5"], ["c", "–"]]),
        Section("Pictures", text="Two of them.", figures=figures),
        Section("Facts", rows=[["seed", "42"]]),
    ]
    write_report(path, title="Heads < 1", lead="Two cases.", sections=sections, phantom=phantom)
    return path.read_text(encoding="utf-8")


class TestPage:
    def test_nothing_is_fetched(self, tmp_path):
        page = Page(write_page(tmp_path / "index.html", phantom=True))
        assert [address[:22] for address in page.addresses] == ["data:image/png;base64,"] * 2
        assert not {"script", "link", "iframe"} & set(page.tags)
        assert [path.name for path in tmp_path.iterdir()] == ["index.html"]

    def test_phantoms_are_named_at_the_top_and_at_every_figure(self, tmp_path):
        text = write_page(tmp_path / "index.html", phantom=True)
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
        assert captions == [f"Case &lt;1&gt;. {PHANTOM_NOTICE}", f"Case 2. {PHANTOM_NOTICE}"]
        assert text.count(PHANTOM_NOTICE) == 3
        assert text.index(PHANTOM_NOTICE) < text.index("<h2>")
        assert PHANTOM_NOTICE not in write_page(tmp_path / "real.html", phantom=False)

    def test_text_is_escaped_and_tables_are_whole(self, tmp_path):
        text = write_page(tmp_path / "index.html", phantom=False)
        assert "<h1>Heads &lt; 1</h1>" in text
        assert re.findall(r"<td>(.*?)</td>", text) == ["a &amp; b", "0.5", "c", "–", "seed", "42"]
        assert re.findall(r"<th>(.*?)</th>", text) == ["case", "Dice"]
        assert "Zmlyc3QgcGljdHVyZQ==" in text  # base64 of "first picture"


class TestSections:
    """Parts of a page as data, for another page."""

    PARTS = (
        Section("Numbers", text="a < b", header=["case", "Dice"], rows=[["a", 0.5], ["–", None]]),
        Section("Pictures", figures=[Figure(b"\x89PNG\r\n", "Case <1>.")]),
    )

    def test_they_survive_the_file(self, tmp_path):
        write_sections(tmp_path / "sections.json", self.PARTS)
        numbers, pictures = read_sections(tmp_path / "sections.json")
        assert (numbers.title, numbers.text) == ("Numbers", "a < b")
        assert numbers.header == ("case", "Dice")
        assert numbers.rows == (("a", "0.5"), ("–", "None"))
        assert pictures.figures == tuple(self.PARTS[1].figures)
        assert pictures.rows == ()

    @pytest.mark.parametrize(
        "text",
        [
            "[]", "{}", '{"sections": [{}]}', '{"sections": 3}',
            '{"sections": [{"title": 1, "text": "", "header": [], "rows": [], "figures": []}]}',
        ],
    )  # fmt: skip
    def test_damage_is_one_line(self, text, tmp_path):
        (tmp_path / "sections.json").write_text(text)
        with pytest.raises(RunError, match=r"sections\.json is damaged") as failure:
            read_sections(tmp_path / "sections.json")
        assert "\n" not in str(failure.value)

    def test_a_damaged_picture_is_one_line(self, tmp_path):
        write_sections(tmp_path / "sections.json", self.PARTS)
        content = json.loads((tmp_path / "sections.json").read_text())
        content["sections"][1]["figures"][0]["png"] = "no base64!"
        (tmp_path / "sections.json").write_text(json.dumps(content))
        with pytest.raises(RunError, match="damaged"):
            read_sections(tmp_path / "sections.json")


class TestNumbers:
    def test_undefined_is_a_dash(self):
        assert format_number(float("nan")) == format_number(None) == "–"
        assert format_number(0.12345) == "0.123"
        assert format_number(-0.5, 1) == "-0.5"

    def test_summary_in_words(self):
        summary = {"mean": 0.5, "sd": 0.25, "ci95_low": 0.1, "ci95_high": 0.9, "n": 7}
        words = "0.50 ± 0.25 (n = 7; 95% interval 0.10 to 0.90"
        assert format_summary({**summary, "n_undefined": 0}, 2) == f"{words})"
        assert format_summary({**summary, "n_undefined": 2}, 2) == f"{words}; 2 undefined)"

    def test_few_cases_stand_for_themselves(self):
        nan = float("nan")
        summary = {"mean": 0.5, "sd": 0.1, "ci95_low": nan, "ci95_high": nan, "n": 2,
                   "n_undefined": 0, "values": [0.4, 0.6]}  # fmt: skip
        assert format_summary(summary, 1) == "0.5 ± 0.1 (n = 2; 0.4, 0.6)"
        assert format_summary({"mean": 0.5, "n": 1}, 1) == "0.5 (n = 1)"


class TestPictures:
    def test_phantom_is_written_into_the_picture(self):
        """On top, in a colour of its own that a picture of real data does not have."""
        image = np.random.default_rng(0).normal(size=(20, 30))
        label = np.zeros((20, 30), int)
        label[5:10, 5:10] = 1
        curve = {"x": "step", "panels": [("loss",), ("dice", "val_dice")]}
        overlay = {"title": "a", "pixel_mm": (1.0, 1.0)}
        for draw in (
            lambda phantom: draw_learning_curve(LOG, **curve, phantom=phantom),
            lambda phantom: draw_overlay(image, label, label, **overlay, phantom=phantom),
        ):
            marked, plain = pixels(draw(True)), pixels(draw(False))
            assert not len(find_colour(plain, PHANTOM_COLOUR))
            places = find_colour(marked, PHANTOM_COLOUR)
            assert len(places) > 50
            assert places[:, 0].max() < 0.15 * len(marked)

    def test_learning_curve_leaves_out_what_the_log_lacks(self):
        """A panel without any of its columns is empty, and says nothing on stderr."""
        panels = [("loss", "val_loss"), ("absent",)]
        drawn = pixels(draw_learning_curve(LOG, x="step", panels=panels, phantom=False))
        without = pixels(draw_learning_curve([], x="step", panels=panels, phantom=False))
        assert drawn.shape[1] > 2 * drawn.shape[0]
        changed = (drawn != without).any(axis=(0, 2))
        assert changed[: len(changed) // 2].any()

    def test_reference_and_prediction_have_their_colours(self):
        image = np.random.default_rng(0).normal(size=(20, 30))
        square, other = np.zeros((2, 20, 30), int)
        square[5:12, 5:12], other[8:15, 12:20] = 1, 1
        options = {"title": "a", "pixel_mm": (1.0, 1.0), "phantom": False}
        both = pixels(draw_overlay(image, square, other, **options))
        for colour, third in ((REFERENCE_COLOUR, 1), (PREDICTION_COLOUR, 2)):
            columns = find_colour(both, colour)[:, 1]
            assert len(columns) > 20
            assert set(columns * 3 // both.shape[1]) == {third}
        alone = pixels(draw_overlay(image, None, other, **options))
        assert alone.shape[1] < 0.8 * both.shape[1]

    @pytest.mark.parametrize("fill", [0, 1])
    def test_nothing_and_everything_can_be_drawn(self, fill):
        """An empty label has no outline, one that fills the slice neither; a constant scan is."""
        label = np.full((12, 12), fill)
        for image in (np.random.default_rng(0).normal(size=(12, 12)), np.ones((12, 12))):
            draw_overlay(image, label, label, title="a", pixel_mm=(1.0, 1.0), phantom=False)
            assert picture_of_overlay(image, label, label).shape == (12, 12, 3)

    def test_anatomy_keeps_its_proportions(self):
        """Rows of 2 mm and columns of 1 mm: a square of pixels is twice as high as wide."""
        image = np.zeros((20, 20))
        image[5:15, 5:15] = 1
        options = {"title": "", "pixel_mm": (2.0, 1.0), "phantom": False}
        drawn = pixels(draw_overlay(image, None, np.zeros((20, 20), int), **options))
        scan = drawn[40:, : drawn.shape[1] // 2, :3]
        dark = np.argwhere((scan < 0.02).all(axis=-1))
        height, width = np.ptp(dark, axis=0) + 1
        assert height / width == pytest.approx(2, rel=0.1)

    def test_outline_by_hand(self):
        """Touching by an edge counts; the border of the picture is no outside."""
        mask = np.zeros((5, 6), bool)
        mask[1:4, 1:4] = True
        expected = mask.copy()
        expected[2, 2] = False
        np.testing.assert_array_equal(outline(mask), expected)
        np.testing.assert_array_equal(outline(np.ones((3, 3), bool)), np.zeros((3, 3), bool))

    def test_picture_for_tensorboard_by_hand(self):
        """The prediction lies over the reference; the rest is grey from 1st to 99th per cent."""
        image = np.arange(100.0).reshape(10, 10)
        reference, prediction = np.zeros((2, 10, 10), int)
        reference[2, 2:5], prediction[2, 4:7] = 2, 1
        picture = picture_of_overlay(image, reference, prediction)
        assert picture.dtype == np.uint8
        blue, orange = [0, 0xB4, 0xD8], [0xFF, 0x6B, 0x35]
        np.testing.assert_array_equal(picture[2, 2:7], [blue, blue, orange, orange, orange])
        grey = np.repeat(picture[..., :1], 3, axis=-1)
        rest = (reference + prediction) == 0
        np.testing.assert_array_equal(picture[rest], grey[rest])
        assert picture[0, 0, 0] == 0
        assert picture[9, 9, 0] == 255
        assert picture[5, 0, 0] == int((50 - 0.99) / (98.01 - 0.99) * 255)
        alone = picture_of_overlay(image, None, prediction)
        np.testing.assert_array_equal(alone[2, 2], [int((22 - 0.99) / 97.02 * 255)] * 3)
