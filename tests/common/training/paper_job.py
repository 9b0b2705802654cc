"""Commands of papers one after the other in one process, where devices may stand in for GPUs.

usage: paper_job.py DEVICES COMMANDS
DEVICES logical devices are made of the processor; COMMANDS is a JSON list of [paper, word, ...].
"""

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from common.runtime import load_tensorflow_quietly

load_tensorflow_quietly()

import tensorflow as tf  # noqa: E402

if __name__ == "__main__":
    devices, commands = sys.argv[1:]
    if int(devices) > 1:
        logical = [tf.config.LogicalDeviceConfiguration()] * int(devices)
        (processor,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(processor, logical)
    for command in json.loads(commands):
        sys.argv = command
        if status := importlib.import_module(f"{command[0]}.__main__").main():
            sys.exit(status)
