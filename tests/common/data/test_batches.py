"""Prepared cases, keyed draws, and batches that begin anywhere."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.data.batches import make_batches, surface_user_errors
from common.data.prepared_store import PreparedCase, write_prepared_case
from common.data.rng import rng_for
from common.errors import DataError

SPEC = (tf.TensorSpec((3,), tf.float32), tf.TensorSpec((), tf.int32))


def draw_by_index(index):
    return rng_for(5, index).normal(size=3).astype(np.float32), np.int32(index)


def batches(draw=draw_by_index, spec=SPEC, **options):
    settings = {"batch_size": 2, "first_step": 0, "last_step": 6, "workers": 3} | options
    return make_batches(draw, element_spec=spec, **settings)


def test_prepared_cases_come_back_as_memory_maps(tmp_path):
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    written = write_prepared_case(
        tmp_path / "cases", "b", {"image": image, "none": np.zeros((0, 3), np.int64)}
    )
    write_prepared_case(tmp_path / "cases", "a", {"count": np.int64(7)})
    case = PreparedCase("b", tmp_path / "cases" / "b")
    assert case == written
    assert list(case.arrays) == ["image", "none"]
    assert isinstance(case.arrays["image"], np.memmap)
    assert not case.arrays["image"].flags.writeable
    np.testing.assert_array_equal(case.arrays["image"], image)
    assert case.arrays["none"].shape == (0, 3)
    assert int(PreparedCase("a", tmp_path / "cases" / "a").arrays["count"]) == 7
    with pytest.raises(KeyError):
        case.arrays["label"]


def test_a_case_prepared_again_replaces_the_old_one(tmp_path):
    write_prepared_case(tmp_path, "a", {"image": np.zeros(3), "label": np.zeros(3)})
    write_prepared_case(tmp_path, "a", {"image": np.ones(4)})
    case = PreparedCase("a", tmp_path / "a")
    assert list(case.arrays) == ["image"]
    assert case.arrays["image"].sum() == 4
    with pytest.raises(ValueError, match="allow_pickle"):
        write_prepared_case(tmp_path, "a", {"image": np.array([object()])})
    assert case.arrays["image"].sum() == 4
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("case_id", ["", ".", "..", ".a", "a/b", "../a", "a\0b"])
def test_case_ids_stay_in_their_folder(tmp_path, case_id):
    with pytest.raises(DataError, match="cannot name a file"):
        write_prepared_case(tmp_path / "cases", case_id, {"a": np.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_array_is_named(tmp_path):
    case = write_prepared_case(tmp_path, "a", {"image": np.zeros(1000)})
    file = tmp_path / "a" / "image.npy"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"image\.npy is no readable \.npy array"):
        case.arrays["image"]


def test_random_streams_depend_on_the_key_alone():
    """The numbers were recorded; numpy promises them to stay (PCG64, SeedSequence)."""
    first = rng_for(42, 3, 7).random(2)
    np.testing.assert_array_equal(first, rng_for(42, 3, 7).random(2))
    assert rng_for(42, 3, 7).integers(0, 2**31, 3).tolist() == [
        241320875,
        2005541061,
        1793402310,
    ]
    keys = [(42,), (42, 0), (42, 0, 0), (42, 3, 7), (42, 7, 3), (43, 3, 7), (423, 7)]
    assert len({rng_for(*key).random() for key in keys}) == len(keys)


def test_batches_are_in_order_and_of_static_size():
    dataset = batches()
    assert dataset.element_spec[0].shape == (2, 3)
    assert dataset.element_spec[1].shape == (2,)
    numbers = [label.numpy().tolist() for _, label in dataset]
    assert numbers == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    images = [image.numpy() for image, _ in dataset]
    np.testing.assert_array_equal(images[4][1], draw_by_index(9)[0])


def test_batches_from_a_later_step_are_the_same():
    whole = [image.numpy().tobytes() for image, _ in batches()]
    rest = [image.numpy().tobytes() for image, _ in batches(first_step=4)]
    assert rest == whole[4:]


def test_structured_elements():
    spec = ({"image": SPEC[0], "memory": SPEC[0]}, (SPEC[1], SPEC[1]))

    def draw(index):
        image, number = draw_by_index(index)
        return {"memory": image + 1, "image": image}, (number, -number)

    (inputs, (number, opposite)) = next(iter(batches(draw, spec)))
    np.testing.assert_array_equal(inputs["memory"], inputs["image"] + 1)
    assert number.numpy().tolist() == [0, 1]
    assert opposite.numpy().tolist() == [0, -1]


def test_a_user_error_in_a_worker_comes_out_as_itself():
    def draw(index):
        if index == 7:
            raise DataError("/data/p07.nii.gz has 2 dimensions, expected 3: 'ä' {x}")
        return draw_by_index(index)

    seen = []
    with (
        pytest.raises(DataError, match=r"^/data/p07\.nii\.gz has 2 dimensions"),
        surface_user_errors(),
    ):
        seen.extend(label.numpy()[0] for _, label in batches(draw))
    assert seen == [0, 2, 4]


def test_other_errors_in_a_worker_stay_what_they_are():
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match=r"draw returned float64 \(3,\)"),
        surface_user_errors(),
    ):
        list(batches(lambda index: (np.zeros(3), np.int32(0))))


def test_memory_does_not_grow_with_the_cases(tmp_path):
    cases = [
        write_prepared_case(tmp_path, f"{number:03d}", {"image": np.full(1000, number, np.int32)})
        for number in range(300)
    ]
    most_maps = []

    def draw(index):
        patch = np.array(cases[index].arrays["image"][10:13])
        maps = Path("/proc/self/maps").read_text()
        most_maps.append(sum(str(tmp_path) in line for line in maps.splitlines()))
        return patch.astype(np.float32), np.int32(index)

    numbers = [int(image[0, 0]) for image, _ in batches(draw, batch_size=1, last_step=300)]
    assert numbers == list(range(300))
    assert max(most_maps) <= 3, "more arrays are open than there are workers"


PARALLEL = """
import json, threading
import numpy as np, tensorflow as tf
from common.data.batches import make_batches
from common.runtime import configure_runtime

facts = configure_runtime(seed=1)
pair = threading.Barrier(2, timeout=60)

def draw(index):
    pair.wait()  # ends only when a second worker draws at the same time
    return (np.float32(index),)

dataset = make_batches(draw, element_spec=(tf.TensorSpec((), tf.float32),), batch_size=2,
                       first_step=0, last_step=8, workers=2)

@tf.function
def step(numbers):
    return tf.reduce_sum(tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64)))) + numbers[0]

print(json.dumps({"facts": facts, "sums": [float(step(batch[0])) for batch in dataset]}))
"""


@pytest.mark.slow
def test_workers_draw_in_parallel_under_determinism_and_one_thread():
    """The single inter-op thread must neither block the workers nor be blocked by them."""
    done = subprocess.run(
        [sys.executable, "-c", PARALLEL],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["sums"] == [64.0**3 + number for number in range(0, 16, 2)]
    assert result["facts"]["deterministic"] is True
    assert result["facts"]["inter_op_threads"] == 1
    assert result["facts"]["notes"] == []


ENDING = """
import time
import numpy as np, tensorflow as tf
from common.data.batches import make_batches

def draw(index):
    time.sleep(0.05)
    return (np.float32(index),)

def use(dataset):
    yield from dataset

batches = use(make_batches(draw, element_spec=(tf.TensorSpec((), tf.float32),), batch_size=2,
                           first_step=0, last_step=1000))
assert next(batches)[0].numpy().tolist() == [0, 1]
cycle = [batches]
cycle.append(cycle)
del batches, cycle
"""


@pytest.mark.slow
def test_a_program_ends_while_workers_draw():
    """A training that stops early leaves its dataset in such a cycle; the exit hung for ever."""
    done = subprocess.run(
        [sys.executable, "-c", ENDING],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
