"""The log is a table of exact numbers."""

import numpy as np
import pytest

from common.errors import RunError
from common.runs.log import read_log, write_log


def test_the_log_reads_back_to_the_bit(tmp_path):
    rows = [
        {"epoch": 1, "step": 5, "loss": 0.1 + 0.2},
        {"epoch": 2, "step": 9, "loss": float(np.float32(1) / 3), "val_dice": 1e-300},
    ]
    write_log(tmp_path, rows)
    assert read_log(tmp_path) == rows
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "epoch,step,loss,val_dice",
        "1,5,0.30000000000000004,",
        "2,9,0.3333333432674408,1e-300",
    ]
    write_log(tmp_path, [{"epoch": 1, "step": 5, "dice": float("nan")}])
    assert np.isnan(read_log(tmp_path)[0]["dice"])
    (tmp_path / "log.csv").write_text("epoch,step\n1,many\n")
    with pytest.raises(RunError, match=r"log\.csv is not a training log"):
        read_log(tmp_path)
    assert read_log(tmp_path / "absent") == []
