"""The benchmark for GPUs, small and on a CPU: what it prints, and that it needs no TensorFlow."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.cost.bench_gpu import PRECISIONS
from common.cost.gpu_timing import list_requests, measure
from common.cost.workloads import load_workload
from common.papers import find_papers

ROOT = Path(__file__).resolve().parents[3]
ALLOWED = {"keras", "numpy"}


def bench(*words, backend, **environment):
    return subprocess.run(
        [sys.executable, "-m", "common", "bench-gpu", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def imported(module, seen):
    """Return the foreign packages that a module of ours imports at its top, and all it leads to."""
    if module in seen:
        return set()
    seen.add(module)
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name for name in inner if (ROOT / f"{name.replace('.', '/')}.py").is_file()}
            names.add(node.module)
    found = set()
    for name in names:
        if (ROOT / f"{name.replace('.', '/')}.py").is_file():
            found |= imported(name, seen)
        elif not (ROOT / name.partition(".")[0]).is_dir():
            found.add(name.partition(".")[0])
    return found


@pytest.mark.parametrize(
    "module",
    [
        "common.__main__",
        "common.cost.bench_gpu",
        "common.cost.gpu_timing",
        *(f"{paper}.workload" for paper in find_papers("workload.py")),
    ],
)
def test_keras_alone_is_imported(module):
    foreign = imported(module, set()) - set(sys.stdlib_module_names)
    assert foreign <= ALLOWED


def test_all_papers_in_both_precisions_and_kinds():
    requests = list_requests(find_papers("workload.py"), small=False, precisions=PRECISIONS)
    networks = {(request["paper"], request["name"]) for request in requests}
    assert {paper for paper, _ in networks} == set(find_papers("workload.py"))
    assert {name for paper, name in networks if paper == "sarcoma"} == {
        "unet2d", "cascade", "dilated"
    }  # fmt: skip
    assert len(requests) == 4 * len(networks)


def test_several_devices_share_training_alone():
    requests = list_requests(["raseg"], small=True, precisions=["float32"], devices=2)
    assert {(each["kind"], each["devices"]) for each in requests} == {("training", 2)}


def test_multiply_adds_of_the_synovitis_paper_at_full_size():
    """3367e9 was counted by hand for its own benchmark."""
    from common.cost.operations import count_operations

    module = load_workload("raseg")
    config = module.full_size()[""]
    shapes = module.workload_of(config).training_shapes
    operations = count_operations(module.build_network(config), shapes)
    assert operations == pytest.approx(2 * 3367e9, rel=1e-3)


@pytest.mark.slow
@pytest.mark.full_size
def test_a_line_for_each_measurement_and_one_that_fails_does_not_stop_the_others(tmp_path):
    """TensorFlow is what is surely installed. A keras that cannot be used stands for a device that
    is too small for training."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif '--measure' in sys.argv and 'training' in sys.argv[-1]:\n"
        "    raise SystemExit('RESOURCE_EXHAUSTED: out of memory')\n"
    )
    words = ("--small", "--paper", "fetal_brain", "--precision", "float32")
    path = tmp_path / "found.json"
    done = bench(*words, "--json", path, backend="tensorflow", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    header, *lines = done.stdout.splitlines()
    assert header.split()[:3] == ["network", "kind", "precision"]
    assert [line.split()[:3] for line in lines] == [
        ["fetal_brain", "training", "float32"], ["fetal_brain", "inference", "float32"],
    ]  # fmt: skip
    assert ["failed" in line for line in lines] == [True, False]
    failed, found = json.loads(path.read_text())
    assert failed["error"].endswith("RESOURCE_EXHAUSTED: out of memory")
    assert found["ms"] > 0
    assert found["peak_gib"] > 0.05


@pytest.mark.parametrize(
    ("words", "backend", "expected"),
    [
        (["--paper", "nothing"], "tensorflow", "--paper nothing: expected one of dhcp_fetal"),
        (["--devices", "2"], "tensorflow", "--devices is 2 with KERAS_BACKEND=tensorflow"),
        ([], "torch", "KERAS_BACKEND is torch; expected jax or tensorflow"),
    ],
)
@pytest.mark.slow
def test_mistakes(words, backend, expected):
    done = bench("--small", *words, backend=backend)
    assert done.returncode == 2
    assert expected in done.stderr.splitlines()[-1]


def test_runs_on_jax_where_tensorflow_cannot_be_imported(tmp_path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed; the extra `backends` has it")
    package = tmp_path / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('TensorFlow was imported')\n")
    done = bench("--small", "--precision", "bfloat16", backend="jax", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()[1:]
    assert {line.split()[0] for line in lines} == set(find_papers("workload.py"))
    assert all(" jax on cpu" in line for line in lines)


def test_two_devices_of_jax_take_a_batch_twice_as_large(tmp_path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed; the extra `backends` has it")
    words = ("--small", "--paper", "fetal_brain", "--precision", "float32")
    flags, sizes = "--xla_force_host_platform_device_count=2", {}
    for devices in (1, 2):
        path = tmp_path / f"{devices}.json"
        done = bench(*words, "--devices", devices, "--json", path, backend="jax", XLA_FLAGS=flags)
        assert done.returncode == 0, done.stdout + done.stderr
        sizes[devices] = json.loads(path.read_text())[0]["shapes"][0]
    assert sizes[2] == [2 * sizes[1][0], *sizes[1][1:]]
    done = bench(*words, "--devices", 3, backend="jax", XLA_FLAGS=flags)
    assert done.returncode == 1
    assert "--devices is 3; found 2 here" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["training", "inference"])
def test_share_is_of_the_product_beside_it(kind):
    """Numbers of one measurement agree with each other, in this process."""
    found = measure("sarcoma", "unet2d", kind, "float32", small=True)
    assert found["tflops"] == pytest.approx(found["operations"] / found["ms"] / 1e9)
    assert found["share"] == pytest.approx(found["tflops"] / found["matmul_tflops"])
    assert found["shapes"][0] == [2, 56, 56, 2]
