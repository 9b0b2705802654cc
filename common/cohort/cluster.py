"""The workers of a cohort: processes of this machine, jobs of a scheduler, or a cluster that runs.

Dask starts them, watches them and starts dead ones again; here is which, and with what settings.
"""

import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import dask_jobqueue
from distributed import Client, LocalCluster

from common.cohort.work import Workers
from common.errors import OptionError, nearest, one_line
from common.files import read_yaml
from common.runtime import usable_cores

SETTINGS = {
    # A worker has one case and no more: what ends it harms no other, and time limits are true.
    "distributed.scheduler.worker-saturation": 1.0,
    # Deaths of a case's workers before it is given up; the first may have been by chance.
    "distributed.scheduler.allowed-failures": 2,
    # A worker that is slow to come back after its death: by default Dask gives its place up after
    # 15 s, and then waits for ever with no workers.
    "distributed.deploy.lost-worker-timeout": "10 minutes",
    # Loading a network can keep a worker from answering.
    "distributed.scheduler.worker-ttl": "30 minutes",
    "distributed.comm.timeouts.connect": "60s",
}
SECONDS_TO_CONNECT = 10
SYSTEMS = {
    "slurm": (dask_jobqueue.SLURMCluster, {"queue", "account", "job_cpu", "job_mem"}),
    "pbs": (dask_jobqueue.PBSCluster, {"queue", "account", "project", "resource_spec"}),
    "sge": (dask_jobqueue.SGECluster, {"queue", "project", "resource_spec"}),
    "lsf": (dask_jobqueue.LSFCluster, {"queue", "project", "ncpus", "mem"}),
}
"""What asks each scheduler for jobs, and the keys that it alone knows."""
KEYS = {
    "processes", "memory", "walltime", "interface", "local_directory", "log_directory", "python",
    "job_name", "job_script_prologue", "job_extra_directives", "job_directives_skip",
    "death_timeout",
}  # fmt: skip
"""Those of every scheduler; docs/clusters explains each."""


@contextmanager
def open_cluster(on: Workers, *, threads: int, most: int) -> Iterator[Client]:
    """Give a client of the workers that are asked for; those that were started end with the block.

    Args:
        on: checked options.
        threads: within an operation, of each worker.
        most: workers that can have something to do.

    Raises:
        OptionError: the configuration of the scheduler is wrong, its commands are missing, or no
            cluster answers at the address.
    """
    count = min(on.workers or most, most)
    settings = {**SETTINGS, "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": threads}
    with dask.config.set(settings):
        if on.scheduler is not None:
            with _connect(on.scheduler) as client:
                _announce(f"the cluster at {on.scheduler}", client)
                yield client
            return
        if on.cluster is not None:
            keys = read_keys(on.cluster, on.cluster_config)
            cluster = make_cluster(on.cluster, keys, source=on.cluster_config)
            where = f"{count} workers asked of {on.cluster}, {threads} threads each"
        else:
            if count * threads > usable_cores():
                print(f"note: {count} workers of {threads} threads share {usable_cores()} cores",
                      file=sys.stderr)  # fmt: skip
            cluster = LocalCluster(
                n_workers=count, threads_per_worker=1, memory_limit=0,
                host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
            )  # fmt: skip
            where = f"{count} worker{'s' * (count > 1)} here, "
            where += f"{threads} thread{'s' * (threads > 1)} each"
        with cluster, Client(cluster) as client:
            if on.cluster is not None:
                submit(cluster, math.ceil(count / keys["processes"]), on.cluster)
            _announce(where, client)
            yield client


def make_cluster(
    system: str, keys: Mapping[str, Any], *, source: Path
) -> dask_jobqueue.JobQueueCluster:
    """Return the cluster of a scheduler, which has no jobs yet.

    Raises:
        OptionError: a value of the file `source` is not what the scheduler's class takes.
    """
    kind, _ = SYSTEMS[system]
    try:
        # As many cases at once in a job as it has processes: one in each.
        return kind(**keys, cores=keys["processes"])
    except (TypeError, ValueError) as refusal:
        raise OptionError(f"--cluster_config {source}: {one_line(refusal)}") from refusal


def read_keys(system: str, path: Path) -> Mapping[str, Any]:
    """Return what a YAML file says of the jobs of a scheduler.

    Raises:
        OptionError: a key is unknown, or processes or memory is missing.
        RunError: the file cannot be read.
    """
    keys = read_yaml(path)
    known = KEYS | SYSTEMS[system][1]
    for key in keys:
        if key not in known:
            near = nearest(key, known)
            hint = f", did you mean {near}?" if near else ""
            raise OptionError(f"--cluster_config {path}: unknown key {key!r}{hint}; expected "
                              f"{', '.join(sorted(known))}")  # fmt: skip
    processes = keys.get("processes")
    if not isinstance(processes, int) or processes < 1 or not isinstance(keys.get("memory"), str):
        raise OptionError(f"--cluster_config {path}: expected processes, workers in a job, and "
                          "memory of a job, such as 16GB")  # fmt: skip
    return keys


def submit(cluster: dask_jobqueue.JobQueueCluster, jobs: int, system: str) -> None:
    """Submit jobs of workers; say on stderr if some are refused.

    Raises:
        OptionError: all are.
    """
    for _ in range(jobs):
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        # What `scale` does, too, but there nobody hears of a refusal.
        cluster.sync(cluster._correct_state)
        return
    except (OSError, RuntimeError) as failure:
        name = getattr(failure, "filename", None)  # of a command that is not there
        reason = (f"{name}: " if name else "") + one_line(failure).rpartition("stderr:")[2].strip()
    # Jobs that were never submitted must be forgotten: Dask would wait for them.
    for name, job in [*cluster.workers.items()]:
        if not job.job_id:
            del cluster.workers[name], cluster.worker_spec[name]
            cluster._created.discard(job)
    if not cluster.workers:
        raise OptionError(f"--cluster {system}: no job could be submitted: {reason}")
    refused = jobs - len(cluster.workers)
    print(f"note: {refused} of {jobs} jobs were refused: {reason}", file=sys.stderr)


def _connect(address: str) -> Client:
    try:
        return Client(address, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as failure:
        raise OptionError(
            f"--scheduler {address}: no Dask scheduler answers ({one_line(failure)}); expected "
            "tcp://host:8786"
        ) from failure


def _announce(where: str, client: Client) -> None:
    shown = f"; dashboard {client.dashboard_link}" if find_spec("bokeh") else ""
    print(f"cohort: {where}{shown}", file=sys.stderr, flush=True)
