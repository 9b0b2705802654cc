"""A list of scans, segmented one after the other or by workers with an exported model."""

import atexit
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from common.cohort.work import Item, Workers, segment_cases
from common.data.names import check_id, check_new, check_outputs, normal_id
from common.data.tables import check_cells, find_file, read_table, rows_by_position
from common.export.passport import PASSPORT
from common.inference.extras import NONE, as_exported
from common.serving.client import MASK, scan_input_of
from common.serving.opening import find_passport, open_client
from common.serving.segment import Order, carry_out, print_notes


def segment_list(
    table: Path, *, output: Path, on: Workers, reorient: bool = False, **where: Any
) -> None:
    """Segment the scans of a list into a folder, <id>.nii.gz each, and print a line about each.

    The list has the columns id, a scan per channel in the order of the passport, and perhaps mask,
    by position. The options are those of `segment`.

    Raises:
        DataError: the list is unusable; or at the end, some scans could not be segmented.
    """
    model, url = where.get("model"), where.get("url")
    passport = find_passport(model, where.get("passport"), url=url)
    orders = read_orders(table, passport["inputs"][scan_input_of(passport)]["channels"], output)
    doubt = as_exported(NONE, passport).entropy
    made = [(id_, [each.output, *[each.entropy] * doubt]) for id_, each in orders.items()]
    inputs = [path for order in orders.values() for path in order.inputs]
    check_outputs(made, inputs, option=f"-o {output}")
    print_notes(passport)
    items = [Item(id_, orders[id_], tuple(outputs)) for id_, outputs in made]
    begin = partial(begin_orders, reorient=reorient, where=where)
    decides = [] if model is None else [Path(model) / PASSPORT]
    segment_cases(items, begin, what="scan", on=on, out=output, decides=decides,
                  tensorflow=url is None)  # fmt: skip


def read_orders(table: Path, channels: Sequence[str], folder: Path) -> dict[str, Order]:
    """Return the orders of a list by id; see `segment_list`."""
    columns, orders, places = ("id", *channels, MASK), {}, {}
    content = read_table(table)
    for row in rows_by_position(content, columns, needed=len(columns) - 1):
        check_cells(content, row, columns[:-1])
        id_, *paths = row.cells[: len(columns)]
        id_ = normal_id(id_)
        check_id(id_, content.where(row))
        check_new(id_, places, content.where(row))
        places[id_] = content.where(row)
        scans = [
            find_file(content, row, p, what=w) for p, w in zip(paths, columns[1:], strict=False)
        ]
        mask = scans.pop() if len(scans) > len(channels) else None
        orders[id_] = Order(tuple(scans), folder / f"{id_}.nii.gz", mask)
    return orders


def begin_orders(*, reorient: bool, where: Mapping[str, Any]) -> Callable[[Order], str]:
    """Open the model and return what carries out an order."""
    opened = ExitStack()
    atexit.register(opened.close)
    return partial(carry_out, client=opened.enter_context(open_client(**where)), reorient=reorient)
