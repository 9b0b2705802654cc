"""The search, against recordings of the released one and against what a search should find."""

import json
from dataclasses import replace

import numpy as np
import pytest

from common.errors import DataError
from vertebra.config import CODE, PORT
from vertebra.traverse import advance, asked_once, begin, cut_padded, search_grid, traverse
from vertebra.windows import centroid

CASES = {
    "T1_narrow_completes": "ends, the two lowest are missing",
    "T2_off_corner_aborts": "all found, then an illegal window",
    "T3_depth128_zero_calls": "begins where it ends",
    "T4_short_z_aborts": "negative slice starts",
    "T5_small_y_aborts": "too few rows",
    "T6_flip_forced_average": "forced to the wrong place, endless",
    "T7_blind_label_overflow": "label beyond 16 bits",
    "T8_shifted_write_slivers": "slivers counted again",
    "T9_corner_spine_completes": "ends, the two lowest are missing",
    "T10_lenient_loops": "below the bottom for ever",
    "T11_first_window_empty": "slides into an illegal window",
    "T12_slide_once_then_found": "stale centre after a slide",
    "T13_shifted_write_component": "shifted by two voxels",
    "T14_patch_size_64_step": "the flag changes the step only",
}
DECISIONS = {"slide": 0, "move": 1, "converge": 2, "forced": 3}


@pytest.fixture(scope="module")
def recorded(golden):
    """All of traversal.npz."""
    return golden("traversal")


@pytest.fixture(scope="module")
def volumes(recorded, recipe):
    """Label volumes of the recorded cases by name, and what else a case says."""
    cases = json.loads(str(recorded["cases_json"]))

    def load(name):
        case, shape = cases[name], tuple(cases[name]["shape"])
        labels = np.zeros(shape, np.int16)
        for n, seed, z0, pitch, r, centre, jitter in case["spines"]:
            labels += recipe.spine_labels(shape, n, seed, z0, pitch, r, centre, jitter)
        check = [(labels > 0).sum(), labels.sum(dtype=np.int64), len(np.unique(labels)) - 1]
        np.testing.assert_array_equal(check, recorded[f"{name}/volume_check"])
        return labels, case

    return load


def rows_of(search):
    """The trace in the recorded columns: z y x decision new_z new_y new_x iters label."""
    none = (-1, -1, -1)
    return [
        (*v.centre, DECISIONS[v.decision], *(v.target or none), v.moves, v.label)
        for v in search.visits
    ]


def unpack(starts, values, shape):
    """Undo the run-length code of a mask."""
    lengths = np.diff([0, *starts, np.prod(shape)])
    return np.repeat([0, *values], lengths).reshape(shape)


def with_some_apart(names, *apart):
    """Return parameters; some, that take long or resemble others, are left to `make test-full`."""
    return [pytest.param(name, marks=[pytest.mark.full_size] * (name in apart)) for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", with_some_apart(CASES, "T7_blind_label_overflow"))
def test_released_search_step_by_step(name, recorded, volumes, recipe):
    """Every window, decision, target, count and label; the mask, or the way it breaks down."""
    labels, case = volumes(name)
    config = replace(CODE, step=case.get("patch", 128) // 2)
    oracle = recipe.Oracle(case["kind"], strict=case.get("strict", True))
    shapes, error = [], ""

    def ask(image, memory):
        if len(shapes) >= case.get("cap", 10_000):
            raise RuntimeError("Stop: call cap")
        shapes.append(image.shape)
        return oracle(image, memory)

    search = begin(labels, config)
    try:
        for _ in advance(search, ask):
            pass
    except (RuntimeError, OverflowError, IndexError) as failure:
        error = str(failure) if "cap" in str(failure) else f"{type(failure).__name__}: {failure}"
    events = recorded[f"{name}/events"]
    rows = rows_of(search)
    np.testing.assert_array_equal(np.reshape(rows, (-1, 9)), events[: len(rows)])
    np.testing.assert_array_equal(np.reshape(shapes, (-1, 3)), recorded[f"{name}/patch_shapes"])
    assert error == str(recorded[f"{name}/error"])
    assert bool(search.ended) == bool(recorded[f"{name}/completed"])
    # The recording has one more row: where it stopped or broke down.
    assert len(events) == len(rows) + 1
    np.testing.assert_array_equal(search.centre, events[-1][:3])
    if search.ended and f"{name}/mask_rle" in recorded:
        mask = unpack(recorded[f"{name}/mask_rle"], recorded[f"{name}/mask_rle_values"],
                      labels.shape)  # fmt: skip
        np.testing.assert_array_equal(search.mask, mask)
        assert search.mask.dtype == labels.dtype


@pytest.mark.parametrize(
    "name",
    with_some_apart(
        sorted(set(CASES) - {"T6_flip_forced_average"}), "T2_off_corner_aborts",
        "T10_lenient_loops", "T11_first_window_empty", "T14_patch_size_64_step",
    ),
)  # fmt: skip
@pytest.mark.slow
def test_mended_search_finds_all(name, volumes, recipe):
    """Where the released search loses, repeats, shifts or breaks down, nothing is lost here."""
    labels, case = volumes(name)
    kind = "component" if case["kind"] == "blind" else case["kind"]
    search = traverse(labels, recipe.Oracle(kind), PORT)
    assert search.ended == "all of the scan was searched"
    present = np.unique(labels)[:0:-1]
    assert [v.label for v in search.vertebrae] == list(range(1, len(present) + 1))
    for number, label in enumerate(present, start=1):  # from the top down, voxel by voxel
        np.testing.assert_array_equal(search.mask == number, labels == label)


@pytest.mark.slow
def test_mended_search_ends_with_a_network_that_alternates(volumes, recipe):
    """The released search is endless here; every approach is forced to an end."""
    labels, _ = volumes("T6_flip_forced_average")
    search = traverse(labels, recipe.Oracle("flip"), PORT)
    assert search.ended
    assert "forced" in {visit.decision for visit in search.visits}
    assert max(visit.moves for visit in search.visits) <= PORT.max_alter


def test_mended_search_never_finds_a_vertebra_twice(volumes, recipe):
    """A network that ignores the memory: 327 labels for one vertebra in the released search."""
    labels, _ = volumes("T7_blind_label_overflow")
    search = traverse(labels, recipe.Oracle("blind"), PORT)
    assert len(search.vertebrae) == 1
    np.testing.assert_array_equal(search.mask, labels > 0)


def noise_network(seed):
    """A network without sense, for the bounds of the search."""
    random = np.random.default_rng(seed)

    def ask(image, memory):
        corner = random.integers(0, 100, 3)
        answer = np.zeros(image.shape, np.float32)
        answer[tuple(slice(c, c + 28) for c in corner)] = 1
        return answer, random.random()

    return ask


@pytest.mark.parametrize("seed", range(3))
def test_mended_search_is_bounded_whatever_the_network(seed):
    shape = (300, 200, 200)
    config = replace(PORT, max_vertebrae=5, max_alter=4)
    search = traverse(np.zeros(shape, np.int16), noise_network(seed), config)
    starts = len(search_grid(shape, config)) + config.max_vertebrae
    assert search.ended
    assert len(search.vertebrae) <= 5
    assert len(search.visits) <= starts * (config.max_alter + 2)


def test_released_search_can_be_stopped():
    """With nothing to find it goes on below the bottom; the bound says so."""
    nothing = lambda image, memory: (np.zeros(image.shape, np.float32), 0.0)  # noqa: E731
    search = traverse(np.zeros((300, 150, 170), np.int16), nothing, CODE, max_visits=50)
    assert search.ended == "stopped after 50 windows: it would not end"
    assert len(search.visits) == 50


def test_half_is_background():
    """Rounding half to even: a probability of exactly 0.5 is not foreground."""
    half = lambda image, memory: (np.full(image.shape, 0.5, np.float32), 1.0)  # noqa: E731
    search = traverse(np.zeros((128, 128, 128), np.int16), half, PORT)
    assert search.vertebrae == []


@pytest.mark.parametrize(
    ("shape", "centres"),
    [
        ((128, 128, 128), [(64, 64, 64)]),
        ((100, 60, 129), [(50, 30, 64), (50, 30, 65)]),
        ((300, 128, 128), [(z, 64, 64) for z in (236, 192, 128, 64)]),
    ],
)
def test_grid_reaches_every_face(shape, centres):
    assert search_grid(shape, PORT) == centres


@pytest.mark.slow
def test_incomplete_vertebrae_are_remembered_but_left_out(volumes, recipe):
    """As the paper uses the completeness: the search goes on below, the result has no partial."""
    labels, _ = volumes("T1_narrow_completes")
    oracle = recipe.Oracle("component")

    def ask(image, memory):
        answer, _ = oracle(image, memory)
        top = (image[answer > 0.5] == labels.max()).any()
        return answer, 0.1 if top else 0.9

    search = traverse(labels, ask, PORT)
    assert [v.complete for v in search.vertebrae] == [False] + [True] * 10
    assert not search.mask[labels == labels.max()].any()
    assert search.memory[labels == labels.max()].all()
    np.testing.assert_array_equal(np.unique(search.mask), np.arange(11))
    kept = traverse(labels, ask, replace(PORT, remove_incomplete=False))
    np.testing.assert_array_equal(np.unique(kept.mask), np.arange(12))


@pytest.mark.slow
def test_skipping_air_changes_visits_and_nothing_else(recipe):
    image, labels = recipe.spine((200, 160, 400), 6, 5, 24, 24, centre=(80, 90))
    image[:, :, 200:] = 20  # nothing but air to the side
    lookup = {"calls": 0}
    oracle = recipe.Oracle("component")

    def ask_of(skip):
        lookup["calls"] = 0

        def ask(window, memory):
            lookup["calls"] += 1
            # The oracle knows the labels; bone is where the image is bright.
            return oracle(np.where(window > 1200, label_window(), 0), memory)

        def label_window():
            return cut_padded(labels, search.centre, 64)

        search = begin(image, replace(PORT, skip_air=skip))
        for _ in advance(search, ask):
            pass
        return search, lookup["calls"]

    (plain, asked), (quick, fewer) = ask_of(False), ask_of(True)
    np.testing.assert_array_equal(plain.mask, quick.mask)
    assert len(np.unique(plain.mask)) == 7
    assert fewer < asked
    assert len(quick.visits) == len(plain.visits)


def test_the_latest_answers_are_known():
    """By image, memory and shape; the two latest here, each as the network gave it."""
    asked = []

    def ask(image, memory):
        asked.append((image.sum(), memory.sum(), image.shape))
        return image / 4, len(asked)

    one, two = np.ones((2, 3, 4), np.float32), np.full((2, 3, 4), 3, np.float32)
    none = np.zeros_like(one)
    run = asked_once(ask, kept=2)
    for image, memory, before, completeness in (
        (one, none, False, 1), (two, none, True, 2), (one, none, False, 1),
        (one, one, False, 3), (two, none, True, 4), (one, one, False, 3),
    ):  # fmt: skip
        mask, found = run(image, memory)
        np.testing.assert_array_equal(mask, np.full((2, 3, 4), before))
        assert found == completeness
    run(one.reshape(4, 3, 2), one.reshape(4, 3, 2))
    assert asked[2:] == [(24, 24, (2, 3, 4)), (72, 0, (2, 3, 4)), (24, 24, (4, 3, 2))]


def test_empty_scan_is_refused():
    with pytest.raises(DataError, match="three axes"):
        traverse(np.zeros((0, 5, 5)), None, PORT)


def test_centroid_by_hand():
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 2, 3] = mask[3, 2, 1] = True
    np.testing.assert_array_equal(centroid(mask), [2, 2, 2])


@pytest.mark.shared
@pytest.mark.full_size
def test_end_to_end_with_the_released_weights(shared, recipe, golden):
    """Ten windows, five of seven vertebrae, the lowest two lost to the stop rule [V10]."""
    from vertebra.inference import load_original, make_ask

    recorded = golden("e2e_pretrained")
    depth, height, width, *numbers = recorded["recipe"].tolist()
    image, _ = recipe.spine((depth, height, width), *numbers)
    weights = shared / "data" / "vertebra" / "IterativeFCN_pretrained.pth"
    search = traverse(image, make_ask(*load_original(weights, CODE)), CODE)
    rows, events = np.array(rows_of(search)), recorded["events"]
    assert len(events) == len(rows) + 1
    np.testing.assert_array_equal(rows[:, 3], events[:-1, 3])
    np.testing.assert_allclose(rows, events[:-1], atol=1)
    completeness = [visit.completeness for visit in search.visits]
    np.testing.assert_allclose(completeness, recorded["C"], atol=1e-3)
    mask = unpack(recorded["mask_rle"], recorded["mask_rle_values"], image.shape)
    assert np.count_nonzero(mask != search.mask) < 1e-3 * np.count_nonzero(mask)


def test_only_the_largest_piece_counts(recipe):
    """[V41] Islands are neither written nor remembered, and do not move the centre."""
    labels = recipe.spine_labels((128, 128, 128), 1, 5, 64, 24)

    def ask(image, memory):
        answer = ((image > 0) & (memory == 0)).astype(np.float32)
        answer[2:10, 2:10, 2:10] = 1
        return answer, 1.0

    search = traverse(labels, ask, PORT)
    np.testing.assert_array_equal(search.mask == 1, labels > 0)
    assert not search.memory[5, 5, 5]
    kept = traverse(labels, ask, replace(PORT, largest_piece=False))
    assert kept.mask[5, 5, 5] == 1


def test_pieces_of_a_vertebra_at_the_end_of_the_scan_do_not_end_the_search():
    """[V42] Two pieces of 800 voxels above a whole vertebra: remembered, and the search goes on."""
    labels = np.zeros((200, 128, 128), np.float32)
    labels[192:, 40:50, 60:70] = labels[192:, 80:90, 60:70] = 2
    labels[130:150, 50:80, 50:80] = 1

    def ask(image, memory):
        for label in (2, 1):
            found = (image == label) & (memory == 0)
            if found.sum() > PORT.min_vol:
                return found.astype(np.float32), 1.0
        return np.zeros(image.shape, np.float32), 0.0

    search = traverse(labels, ask, PORT)
    assert len(search.vertebrae) == 1
    np.testing.assert_array_equal(search.mask == 1, labels == 1)
    assert search.memory[195, 45, 65] == 1
    assert search.ended == "all of the scan was searched"
