"""Tables as text: by hand."""

from common.report.tables import fill, fit_widths, format_table, show


def test_columns_are_aligned():
    assert format_table([{"a": 1, "bb": "x"}, {"a": 222, "bb": "y"}]) == "a    bb\n1    x\n222  y"
    assert format_table([]) == "(nothing)"


def test_wide_cells_are_broken_into_lines():
    rows = [{"name": "short", "words": "one two three four"}]
    assert (
        format_table(rows, columns=16) == "name   words\nshort  one two\n       three\n       four"
    )
    assert (
        format_table([{"name": "unit_0/conv3d/Conv"}], columns=12) == "name\nunit_0/\nconv3d/Conv"
    )
    assert fit_widths([5, 18], 16) == [5, 9]
    assert fit_widths([5, 18], None) == [5, 18]
    # A word of 18 letters breaks only when nothing else gives way any more.
    assert fit_widths([12, 18], 25, [4, 18]) == [5, 18]


def test_floats_are_short():
    assert [show(value) for value in (15.811388, 1e-05, 0.1 + 0.2, True, (1, 2))] == [
        "15.811388", "1e-05", "0.3", "True", "(1, 2)",
    ]  # fmt: skip


def test_text_is_filled_line_by_line():
    assert fill("one two three\nfour", 8) == "one two\nthree\nfour"
