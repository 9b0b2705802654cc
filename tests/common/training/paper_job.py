"""A command of a paper where two logical devices stand in for two GPUs.

usage: paper_job.py DEVICES PAPER WORD...
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from common.runtime import load_tensorflow_quietly

load_tensorflow_quietly()

import tensorflow as tf  # noqa: E402

if __name__ == "__main__":
    devices, paper, *words = sys.argv[1:]
    if int(devices) > 1:
        logical = [tf.config.LogicalDeviceConfiguration()] * int(devices)
        (processor,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(processor, logical)
    sys.argv = [paper, *words]
    sys.exit(importlib.import_module(f"{paper}.__main__").main())
