"""The steps or calls that a probe measures, run in the process that it started."""

import importlib
from pathlib import Path

from common.cost.device import peak_of_device
from common.cost.memory import memory_held
from common.cost.stopwatch import time_call
from common.cost.workloads import load_workload, prepare_call, prepare_step
from common.runs.folder import load_config
from common.runtime import configure_runtime

ENOUGH_SECONDS = 3.0
MOST_REPEATS = 20


def run_request(request: dict) -> dict:
    """Measure what `common.cost.probe.measure` asks for; return the fields of its `Measured`."""
    config_class = importlib.import_module(f"{request['paper']}.config").Config
    config = load_config(Path(request["folder"]), config_class)
    xla = configure_runtime(seed=0, mixed_precision=request["mixed"])["xla"]
    module = load_workload(request["paper"])
    scan = request["scan"] and tuple(request["scan"])
    if request["kind"] == "training":
        run = prepare_step(module, config, scan, xla=xla)
    else:
        run = prepare_call(module, config, scan)
    start = memory_held()
    first, _ = time_call(run)
    times = [time_call(run)[0]]
    while sum(times) < ENOUGH_SECONDS and len(times) < MOST_REPEATS:
        times.append(time_call(run)[0])
    peak, memory = peak_of_device()
    return {"seconds": min(times), "first_seconds": first, "start_bytes": start,
            "peak_bytes": peak, "memory": memory}  # fmt: skip
