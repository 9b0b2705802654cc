"""Several devices share a training: as one device, to rounding; killed, to the bit as unbroken."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import torture
from commands import program, tree, with_project

from common.data.batches import make_batches, number_examples, sharing_batches
from common.errors import OptionError, RunError
from common.network import replicas
from common.runs.folder import open_run
from common.runtime import wait_for_workers, worker_of
from common.training.checkpoints import read_checkpoint
from common.training.loop import CHECKPOINT
from vertebra.learning import refuse_replicas

FOLDER = Path(__file__).parent
JOB = FOLDER / "strategy_job.py"
STEPS = 7
WORDS = {
    "fetal_brain": "--max_steps 4 --run_validation false",
    "raseg": "--epochs 2 --batch_size 2 --batch_statistics true",
    "sarcoma": "--epochs 2 --batch_normalisation true --run_validation false",
    "dhcp_fetal": "--epochs 2 --dice_weight 0.5",
}
"""What each paper's smallest training is changed by, for batches that two devices can share."""
TOLERANCES = {"fetal_brain": 1e-6, "raseg": 1e-6, "sarcoma": 1.5e-5, "dhcp_fetal": 3e-6}
"""Of all variables after the training; about 4 times what was measured."""


def tf_config(number, workers=2, ports=(1, 2)):
    addresses = [f"localhost:{port}" for port in ports[:workers]]
    task = {"type": "worker", "index": number}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


def start(words, folder, name, **environment):
    """Start a job; what it says on stderr goes to a file."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=open(folder / f"{name}.err", "w"),
        env=with_project({"TF_CPP_MIN_LOG_LEVEL": "2"} | environment),
    )  # fmt: skip


def start_workers(words, folder, name):
    ports = free_ports(2)
    return [
        start(words, folder, f"{name}{number}", TF_CONFIG=tf_config(number, ports=ports))
        for number in (0, 1)
    ]


def start_under_slurm(words, folder, name):
    """Start the two workers with the variables that `srun --ntasks 2` sets on one machine."""
    step = {"NUM_TASKS": "2", "NODELIST": "localhost", "TASKS_PER_NODE": "2"}
    both = {f"SLURM_STEP_{key}": value for key, value in step.items()}
    both["SLURM_JOB_ID"] = str(os.getpid())  # which the ports follow from
    return [
        start(words, folder, f"{name}{number}", SLURM_PROCID=str(number), **both)
        for number in (0, 1)
    ]


def finish(folder, **jobs):
    """Wait for jobs by the names of their files; all must succeed."""
    for name, job in jobs.items():
        job.communicate(timeout=600)
        assert job.returncode == 0, (folder / f"{name}.err").read_text()[-3000:]


def variables_of(run):
    """Everything that training changes, but the measures, of which each device has its own."""
    groups = read_checkpoint(run / "checkpoints" / CHECKPOINT).arrays
    return [*groups["model"], *groups["optimizer"], *groups["callbacks"]]


def distance(run, other):
    pairs = list(zip(variables_of(run), variables_of(other), strict=True))
    assert all(one.shape == two.shape for one, two in pairs)
    return max(np.abs(np.subtract(*pair, dtype=np.float64)).max() for pair in pairs if pair[0].size)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """The run of one process with two devices."""
    folder = tmp_path_factory.mktemp("devices")
    words = [JOB, "mirrored", "mirrored", "norm,dropout", STEPS]
    finish(folder, mirrored=start(words, folder, "mirrored"))
    return folder / "mirrored"


@pytest.mark.slow
def test_two_devices_are_one(mirrored, tmp_path):
    """Normalisation and dropout included."""
    words = [JOB, "one", "one", "norm,dropout", STEPS]
    finish(tmp_path, one=start(words, tmp_path, "one"))
    assert distance(tmp_path / "one", mirrored) < 1e-6  # 2e-7 was measured


@pytest.mark.slow
@pytest.mark.full_size
def test_a_killed_pair_of_workers_goes_on(mirrored, tmp_path):
    """To the bits of one process with two devices; the measures of a broken epoch are kept."""
    words = [JOB, "killed", "multiworker", "norm,dropout", STEPS]
    chief, other = start_workers(words, tmp_path, "killed")
    for line in other.stdout:
        if line.strip().isdigit() and int(line) >= 3:
            break
    os.kill(other.pid, signal.SIGKILL)
    chief.communicate(timeout=120)
    assert chief.returncode == 2
    assert (tmp_path / "killed0.err").read_text().splitlines()[-1] == (
        "error: another worker of this training has ended, or cannot be reached; give all workers "
        "the same command again: they go on from the last checkpoint"
    )
    checkpoint = read_checkpoint(tmp_path / "killed" / "checkpoints" / CHECKPOINT)
    assert checkpoint.position["step"] == 2, "expected to be within the first epoch"
    assert all(array.shape[0] == 2 for array in checkpoint.arrays["metrics"])
    chief, other = start_workers(words, tmp_path, "again")
    finish(tmp_path, again0=chief, again1=other)
    states = [variables_of(run) for run in (mirrored, tmp_path / "killed")]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*states, strict=True))
    logs = [(run / "log.csv").read_bytes() for run in (mirrored, tmp_path / "killed")]
    assert logs[0] == logs[1]
    runtime = json.loads((tmp_path / "killed" / "manifest.json").read_text())["runtime"]
    shares = {name: runtime[name] for name in ("strategy", "workers", "replicas", "xla")}
    assert shares == {"strategy": "multiworker", "workers": 2, "replicas": 2, "xla": False}
    assert runtime["intra_op_threads"] == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The smallest training of each paper by one process, and by two; each in one folder."""
    root, alone, together, again = tmp_path_factory.mktemp("papers"), [], [], {}
    for paper, words in WORDS.items():
        stages = torture.stages_of(paper)
        last = next(n for n, stage in enumerate(stages) if stage[0] == "train")
        train = f"{' '.join(stages[last])} {words}".replace("--run run", "--run RUN")
        train = train.replace("--run brain", "--run RUN")
        for stage in (*stages[:last], train.replace("RUN", "one").split()):
            alone.append(in_folder(paper, stage))
        train += " --strategy multiworker"
        together.append(in_folder(paper, train.replace("RUN", "two")))
        again[paper] = in_folder(paper, train.replace("RUN", "killed"))
        (root / paper).mkdir()
    job = FOLDER / "paper_job.py"
    words = [job, 1, json.dumps(alone)]
    finish(root, one=start(words, root, "one", OMP_NUM_THREADS="1"))
    chief, other = start_workers([job, 1, json.dumps(together)], root, "two")
    finish(root, two0=chief, two1=other)
    return root, again


def in_folder(paper, words):
    """Return a command with its files in the paper's folder."""
    words = words.split() if isinstance(words, str) else words
    names = {"phantom", "prepared", "bins", "one", "two", "killed"}
    return [paper, words[0]] + [
        f"{paper}/{word}" if word.partition("/")[0] in names else word for word in words[1:]
    ]


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.parametrize("paper", WORDS)
def test_two_workers_train_a_paper_as_one_process_does(trained, paper):
    one, two = (trained[0] / paper / name for name in ("one", "two"))
    assert distance(one, two) < TOLERANCES[paper]
    assert tree(one).keys() - {*tensorboard(one)} == tree(two).keys() - {*tensorboard(two)}
    rows = [np.loadtxt(run / "log.csv", delimiter=",", skiprows=1) for run in (one, two)]
    np.testing.assert_allclose(*rows, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.parametrize("paper", WORDS)
def test_a_killed_pair_of_workers_ends_as_an_unbroken_one(trained, paper):
    """The second is killed once the first epoch has its checkpoint; every bit is the same. They go
    on under Slurm's variables."""
    root, commands = trained
    words = [FOLDER / "paper_job.py", 1, json.dumps([commands[paper]])]
    run = root / paper / "killed"
    chief, other = start_workers(words, root, f"{paper}_killed")
    patience = time.monotonic() + 300
    while not (run / "checkpoints" / CHECKPOINT).exists() and time.monotonic() < patience:
        time.sleep(0.005)
    os.kill(other.pid, signal.SIGKILL)
    chief.communicate(timeout=120)
    assert chief.returncode == 2
    said = (root / f"{paper}_killed0.err").read_text().splitlines()[-1]
    assert "another worker of this training has ended" in said
    assert not (run / "model.keras").exists()
    chief, other = start_under_slurm(words, root, f"{paper}_again")
    finish(root, **{f"{paper}_again0": chief, f"{paper}_again1": other})
    whole, broken = (variables_of(root / paper / name) for name in ("two", "killed"))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, broken, strict=True))
    logs = [(root / paper / name / "log.csv").read_bytes() for name in ("two", "killed")]
    assert logs[0] == logs[1]


def tensorboard(run):
    return [name for name in tree(run) if name.startswith("tensorboard/")]


def test_shares_of_a_batch_are_the_batch():
    """Two workers of two devices each: steps 3 and 4, eight examples a step."""

    def batches(*share):
        with sharing_batches(*share):
            dataset = make_batches(
                lambda index: np.int64(index), element_spec=tf.TensorSpec((), tf.int64),
                batch_size=8, first_step=3, last_step=5,
            )  # fmt: skip
        return [batch.tolist() for batch in dataset.as_numpy_iterator()]

    assert batches(0, 1, 1) == [[*range(24, 32)], [*range(32, 40)]]
    assert batches(0, 2, 2) == [[24, 25], [26, 27], [32, 33], [34, 35]]
    assert batches(1, 2, 2) == [[28, 29], [30, 31], [36, 37], [38, 39]]


def test_a_batch_that_devices_cannot_share_is_refused():
    with sharing_batches(0, 2, 2), pytest.raises(OptionError, match=r"--batch_size is 6.*of 4"):
        number_examples(6, 0, 1)
    with pytest.raises(OptionError, match=r"--strategy mirrored: found 2 devices.*one patch"):
        refuse_replicas({"strategy": "mirrored", "replicas": 2})
    refuse_replicas({"strategy": "mirrored", "replicas": 1})


def test_workers_are_named_by_tf_config_or_slurm():
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}
    assert worker_of("multiworker", {"TF_CONFIG": tf_config(1)} | slurm) == (1, 2)
    assert worker_of("multiworker", slurm) == (3, 4)
    assert worker_of("mirrored", slurm) == worker_of(None, slurm) == (0, 1)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"cluster": {"worker": ["a:1"]}}', tf_config(2), tf_config(-1),
             tf_config("0"), tf_config(0).replace('"type": "worker"', '"type": "ps"')],
)  # fmt: skip
def test_a_wrong_tf_config_is_one_line(text):
    with pytest.raises(OptionError, match=r"TF_CONFIG is .*; expected"):
        worker_of("multiworker", {"TF_CONFIG": text})


def test_workers_that_nobody_names_are_one_line(tmp_path):
    with pytest.raises(OptionError, match="found neither TF_CONFIG nor"):
        worker_of("multiworker", {"SLURM_PROCID": "0"})


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def test_workers_wait_for_each_other():
    addresses = [f"localhost:{port}" for port in free_ports(3)]
    with ThreadPoolExecutor() as pool:
        waits = [pool.submit(wait_for_workers, addresses, number, 20) for number in range(3)]
        assert [wait.result() for wait in waits] == [None] * 3
        waits = [pool.submit(wait_for_workers, addresses, number, 1) for number in (0, 2)]
        for wait in waits:
            with pytest.raises(TimeoutError, match=f"after 1 s without {addresses[1]}$"):
                wait.result()


def open_worker(path, number, monkeypatch, size=1, **options):
    monkeypatch.setenv("TF_CONFIG", tf_config(number))
    return open_run(path, paper="job", options={}, config={"size": size}, seed=0,
                    strategy="multiworker", **options)  # fmt: skip


def test_a_worker_reads_the_run_and_writes_elsewhere(tmp_path, monkeypatch):
    path = tmp_path / "run"
    with open_worker(path, 0, monkeypatch) as chief:
        before = tree(path)
        with open_worker(path, 1, monkeypatch) as worker:
            worker.record(runtime={"xla": False})
            worker.write_split({"training": []})
            (worker.checkpoints / "last.npz").touch()
            assert worker.manifest["runtime"] == {"xla": False}
            assert (worker.shared, chief.shared) == (path, path)
        assert tree(path) == before
        assert not worker.path.exists()
    with pytest.raises(RunError, match="is finished"), open_worker(path, 1, monkeypatch):
        pass
    with open_worker(path, 1, monkeypatch, overwrite=True):
        pass
    assert json.loads((path / "manifest.json").read_text())["status"] == "finished"


def test_a_worker_with_another_configuration_is_refused(tmp_path, monkeypatch):
    with (
        open_worker(tmp_path, 0, monkeypatch),
        pytest.raises(RunError, match="has size 1, but 2"),
        open_worker(tmp_path, 1, monkeypatch, size=2),
    ):
        pass


def test_without_a_strategy_nothing_is_changed():
    x = keras.ops.ones((2, 3))
    assert replicas.count_replicas() == 1
    assert replicas.sum_over_replicas(x) is x
    assert replicas.mean_over_replicas(x) is x
    assert replicas.draw_own_part(lambda shape: shape, (2, 3)) == (2, 3)


def test_a_strategy_that_does_not_exist_is_one_line(tmp_path):
    done = subprocess.run(
        program("fetal_brain", ["train", "--strategy", "parameter_server"]), cwd=tmp_path,
        capture_output=True, text=True, env=with_project({}), check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--strategy" in done.stderr.splitlines()[-1]
    assert len(done.stderr.splitlines()) == 1
