"""The search for vertebrae, one after the other, with a network that sees one patch at a time.

One machine, two sets of rules. `released` repeats the original step by step: its losses, its
endless loops and its aborts [V10] ... [V16]. `mended` is what the paper means, and always ends.

Arrays are (Z, Y, X), z grows cranially; both searches go from the top down. A window is the cube of
`patch_size` around a centre, [centre - half, centre + half) on every axis.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np

from common.errors import DataError
from vertebra.config import Config
from vertebra.windows import centroid, cut, largest_piece, overlap, round_mask

MOST_VISITS = 2000
"""Windows after which the released search, which may be endless, is given up."""

Centre = tuple[int, int, int]
Decision = Literal["slide", "move", "converge", "forced", "lost", "skip", "stop"]
LABEL_STEP = 100
"""The released code calls its finds 100, 200, ..."""
AIR_LIMIT = 300.0
"""[V36] Raw values up to this are air: 724 HU below water."""


class Answer(NamedTuple):
    """What the network says about one window."""

    mask: np.ndarray
    """(z, y, x) bool: the next vertebra."""
    completeness: float


class Visit(NamedTuple):
    """One step of the search, as it is traced."""

    centre: Centre
    decision: Decision
    target: Centre | None
    """The find's centre, where the search looks or writes next."""
    moves: int
    """Moves since the last find, -1 where none is counted."""
    label: int
    """Label written in this step, else 0."""
    voxels: int
    completeness: float


@dataclass(frozen=True)
class Vertebra:
    """One find."""

    label: int
    """In the mask; 0 if it was left out as incomplete."""
    centre: Centre
    voxels: int
    completeness: float
    complete: bool


@dataclass
class Traversal:
    """The state of a search, and in the end its result."""

    image: np.ndarray
    """(Z, Y, X), as the network is to see it."""
    config: Config
    mask: np.ndarray
    memory: np.ndarray
    centre: Centre
    label: int
    moves: int = 0
    last_find: Centre = (0, 0, 0)
    """[V15] released: centre of the latest answer, stale after sliding."""
    grid: list[Centre] = field(default_factory=list)
    """mended: windows still to be searched, in order."""
    approaching: bool = False
    """mended: near a find, not yet arrived."""
    ending: bool = False
    """mended: the next answer is written whatever the centre."""
    visits: list[Visit] = field(default_factory=list)
    vertebrae: list[Vertebra] = field(default_factory=list)
    ended: str = ""
    """Why the search ended; empty while it goes on or where it was aborted."""
    given_up: bool = False
    """Ended by a limit on its windows."""

    @property
    def half(self) -> int:
        """Half the edge of a window."""
        return self.config.patch_size // 2

    def note(self, decision: Decision, target=None, *, moves=-1, label=0, answer=None) -> None:
        """Add a step to the trace."""
        voxels = 0 if answer is None else int(np.count_nonzero(answer.mask))
        completeness = float("nan") if answer is None else float(answer.completeness)
        self.visits.append(Visit(self.centre, decision, target, moves, label, voxels, completeness))


class Rules(NamedTuple):
    """What distinguishes one search from another."""

    begin: Callable[[np.ndarray, Config], Traversal]
    reason_to_end: Callable[[Traversal], str]
    cut: Callable[[Traversal], tuple[np.ndarray, np.ndarray]]
    react: Callable[[Traversal, Answer | None], None]


def begin(image: np.ndarray, config: Config) -> Traversal:
    """Return the state of a search that has not begun; arguments as `traverse`."""
    if image.ndim != 3 or not all(image.shape):
        raise DataError(f"a scan of shape {image.shape}; expected three axes with voxels on each")
    return RULES[config.traversal].begin(image, config)


def advance(
    search: Traversal, ask: Callable, *, max_visits: int | None = None
) -> Iterator[Traversal]:
    """Do one step of a search after the other until it ends; yield the search after each.

    Args:
        search: of `begin`; it is changed, and shows how far it came when `ask` raises.
        ask: image and memory of a window, float32 (z, y, x) -> probabilities of the same shape and
            completeness.
        max_visits: windows after which the search is stopped; None: as many as it takes, which is
            finite for the mended rules only.
    """
    rules = RULES[search.config.traversal]
    while True:
        search.ended = rules.reason_to_end(search)
        if not search.ended and max_visits is not None and len(search.visits) >= max_visits:
            search.ended = f"stopped after {max_visits} windows: it would not end"
            search.given_up = True
        if search.ended:
            return
        answer, window = None, rules.cut(search)
        if window is not None:
            probabilities, completeness = ask(*window)
            answer = Answer(round_mask(np.asarray(probabilities)), float(completeness))
        rules.react(search, answer)
        yield search


def asked_once(ask: Callable, *, kept: int = 64) -> Callable:
    """Return `ask` that knows its latest answers: a search comes back to a place from many sides,
    and where image and memory are as they were, so is the answer. It keeps masks, 2 MiB each for
    windows of 128^3; finding one takes some hundredths of a second."""
    answers: dict[tuple, tuple[np.ndarray, float]] = {}

    def answer(image: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, float]:
        key = (image.shape, *(blake2b(each.tobytes()).digest() for each in (image, memory)))
        found = answers.pop(key, None)
        if found is None:
            probabilities, completeness = ask(image, memory)
            found = round_mask(np.asarray(probabilities)), float(completeness)
        answers[key] = found
        if len(answers) > kept:
            del answers[next(iter(answers))]
        return found

    return answer


def traverse(
    image: np.ndarray, ask: Callable, config: Config, *, max_visits: int | None = None
) -> Traversal:
    """Find vertebrae one after the other in raw intensities (Z, Y, X) on the isotropic grid.

    Returns the search that has ended: `mask` (Z, Y, X), `vertebrae` in the order of their
    discovery, `visits`, `ended`. Mask: int32, 1, 2, ... from the top; released rules: the image's
    dtype, 100, 200, ... Raises `DataError` for an image without voxels, what `ask` raises, and what
    the released rules run into. Source: instance_segmentation.py; the paper, as far as it could be
    read.
    """
    search = begin(image, config)
    for _ in advance(search, ask, max_visits=max_visits):
        pass
    return search


# The released rules


def begin_released(image: np.ndarray, config: Config) -> Traversal:
    """Start at the top of one corner [V12]; mask and memory have the image's dtype [V16]."""
    half = config.patch_size // 2
    start = (image.shape[0] - half, half, half)
    return Traversal(
        image, config, np.zeros_like(image), np.zeros_like(image), start, LABEL_STEP,
        last_find=start,
    )  # fmt: skip


def reason_to_end_released(search: Traversal) -> str:
    """End where the centre is that of the lowest corner window, before looking there [V10]."""
    near = all(abs(c - search.half) < search.config.sigma for c in search.centre)
    return "the centre is in the lowest corner" if near else ""


def cut_released(search: Traversal) -> tuple[np.ndarray, np.ndarray]:
    """Slice as numpy does: negative starts wrap round, ends are cut off [V11] [V12]."""
    box = _box(search.centre, search.half)
    return search.image[box].astype(np.float32), search.memory[box].astype(np.float32)


def react_released(search: Traversal, answer: Answer) -> None:
    """Move to a find, write it, or slide on."""
    config, half = search.config, search.half
    if np.count_nonzero(answer.mask) <= config.min_vol:
        search.note("slide", answer=answer)
        search.centre = _slide_released(search)
        return
    before, found = search.last_find, centroid(answer.mask).astype(int)
    target = tuple(
        size - half if new + half > size else half if new - half < 0 else int(new)
        for new, size in zip(np.subtract(search.centre, half) + found, search.image.shape,
                             strict=True)
    )  # fmt: skip
    search.last_find = target
    if max(abs(a - b) for a, b in zip(target, before, strict=True)) > config.sigma:
        search.moves += 1
        if search.moves < config.max_alter:
            search.note("move", target, moves=search.moves, answer=answer)
            search.centre = target
            return
        # [V14] Every axis is averaged with the z of the centre before.
        write_at = tuple(int((new + before[0]) / 2) for new in target)
        decision, moves = "forced", search.moves
    else:
        decision, moves, write_at = "converge", -1, target
    search.moves = 0
    _write_released(search, answer, write_at)
    search.note(decision, target, moves=moves, label=search.label, answer=answer)
    search.label += LABEL_STEP
    search.centre = search.last_find = write_at


def _write_released(search: Traversal, answer: Answer, centre: Centre) -> None:
    """Write at the new centre, which is up to sigma voxels from where the answer is from [V13]."""
    box = _box(centre, search.half)
    search.memory[box][answer.mask] = 1
    # [V16] An overflowing label raises here, as it does in the original.
    search.mask[box][answer.mask] = search.label
    voxels = int(answer.mask.sum())
    search.vertebrae.append(Vertebra(search.label, centre, voxels, answer.completeness, True))


def _slide_released(search: Traversal) -> Centre:
    """Step along x, then y, then down; checked by the centre, one step too late [V11]."""
    (z, y, x), step, half = search.centre, search.config.step, search.half
    if x + step <= search.image.shape[2]:
        return z, y, x + step
    if y + step <= search.image.shape[1]:
        return z, y + step, half
    return z - step, half, half


def _box(centre: Centre, half: int) -> tuple[slice, ...]:
    return tuple(slice(c - half, c + half) for c in centre)


# The mended rules


def begin_mended(image: np.ndarray, config: Config) -> Traversal:
    """Start with the first of a grid of windows that reaches every face [V11]."""
    grid = search_grid(image.shape, config)
    mask, memory = np.zeros(image.shape, np.int32), np.zeros(image.shape, np.uint8)
    return Traversal(image, config, mask, memory, grid[0], 1, grid=grid)


def search_grid(shape, config: Config) -> list[Centre]:
    """Return the centres of the windows that are searched, from the top down, then y, then x.

    Every axis begins and ends with a window at the face; one no longer than a window has one
    centre.
    """
    limits = [_limits(size, config.patch_size // 2) for size in shape]
    z, y, x = ([*range(low, high, config.step), high] for low, high in limits)
    return list(itertools.product(z[::-1], y, x))


def _limits(size: int, half: int) -> tuple[int, int]:
    """Return the lowest and highest centre whose window does not leave the scan needlessly."""
    return (half, size - half) if size > 2 * half else (size // 2, size // 2)


def reason_to_end_mended(search: Traversal) -> str:
    """End with the grid, or at the bounds that no scan reaches [V16]."""
    config = search.config
    if len(search.vertebrae) >= config.max_vertebrae:
        return f"{config.max_vertebrae} vertebrae were found, the most that are looked for"
    if not search.grid:
        return "all of the scan was searched"
    # A window of the grid or a find is followed by its moves, a forced answer and a lost trail.
    starts = len(search_grid(search.image.shape, config)) + config.max_vertebrae
    bound = starts * (config.max_alter + 2)
    return f"{bound} windows were looked at, the bound" if len(search.visits) >= bound else ""


def cut_mended(search: Traversal) -> tuple[np.ndarray, np.ndarray] | None:
    """Cut a whole window, with air and an empty memory outside of the scan [V12].

    Returns image and memory; None for a window that holds too little but air [V36].
    """
    image, memory = (
        cut_padded(volume, search.centre, search.half) for volume in (search.image, search.memory)
    )
    if search.config.skip_air and not search.approaching:
        dense = np.count_nonzero((image > AIR_LIMIT) & (memory == 0))
        return (image, memory) if dense > search.config.min_vol else None
    return image, memory


def cut_padded(volume: np.ndarray, centre: Centre, half: int) -> np.ndarray:
    """Return the window around a centre as float32, zeros where it leaves the volume."""
    return cut(volume, *_faces(centre, half), dtype=np.float32)


def _faces(centre: Centre, half: int) -> tuple[Centre, Centre]:
    return tuple(c - half for c in centre), tuple(c + half for c in centre)


def react_mended(search: Traversal, answer: Answer | None) -> None:
    """Move to a find until the centre stays, write it there, look again; or search on."""
    if answer is None:
        search.note("skip")
        _search_on(search)
        return
    config = search.config
    inside, outside = overlap(search.image.shape, *_faces(search.centre, search.half))
    mask = np.zeros_like(answer.mask)
    mask[inside] = answer.mask[inside] & (search.memory[outside] == 0)
    # [V16] What was found before does not count, so that no vertebra is found twice.
    known = np.count_nonzero(mask) < np.count_nonzero(answer.mask) / 2
    whole, mask = mask, largest_piece(mask) if config.largest_piece else mask
    if known or np.count_nonzero(mask) <= config.min_vol:
        search.note("lost" if search.approaching else "slide", answer=answer)
        if search.approaching and not known and np.count_nonzero(whole) > config.min_vol:
            # [V42] A vertebra that the scan cuts into pieces, each too small: remembered without a
            # label, or else the network would point there, past all others, again and again.
            search.memory[outside][whole[inside]] = 1
            search.approaching, search.ending, search.moves = False, False, 0
        else:
            _search_on(search)
        return
    target = _clamped(np.subtract(search.centre, search.half) + centroid(mask), search)
    shift = max(abs(a - b) for a, b in zip(target, search.centre, strict=True))
    search.approaching = True
    if shift > config.sigma and not search.ending:
        search.moves += 1
        search.note("move", target, moves=search.moves, answer=answer)
        search.ending = search.moves >= config.max_alter
        if search.ending:  # [V14] half-way between the two, on every axis
            target = tuple((a + b) // 2 for a, b in zip(target, search.centre, strict=True))
        search.centre = target
        return
    # [V13] Written where the answer is from, never over another vertebra.
    label = _write_mended(search, mask[inside], outside, answer)
    decision = "forced" if search.ending else "converge"
    search.note(decision, target, moves=search.moves, label=label, answer=answer)
    search.moves, search.ending = 0, False


def _write_mended(search: Traversal, mask: np.ndarray, box, answer: Answer) -> int:
    """Remember a find, and label it unless it is incomplete [V17]; return the label."""
    config = search.config
    complete = answer.completeness >= config.completeness_threshold
    label = search.label if complete or not config.remove_incomplete else 0
    search.memory[box][mask] = 1
    if label:
        search.mask[box][mask] = label
    search.vertebrae.append(
        Vertebra(label, search.centre, int(mask.sum()), answer.completeness, complete)
    )
    search.label += bool(label)
    return label


def _clamped(target: np.ndarray, search: Traversal) -> Centre:
    """Return the nearest centre whose window does not leave the scan needlessly [V12]."""
    limits = (_limits(size, search.half) for size in search.image.shape)
    return tuple(
        min(max(int(np.floor(c + 0.5)), low), high)
        for c, (low, high) in zip(target, limits, strict=True)
    )


def _search_on(search: Traversal) -> None:
    """Go on with the next window of the grid; after an approach, with none above its end."""
    search.grid = search.grid[1:]
    if search.approaching:
        search.grid = [centre for centre in search.grid if centre[0] <= search.centre[0]]
    search.approaching, search.ending, search.moves = False, False, 0
    if search.grid:
        search.centre = search.grid[0]


RULES = {
    "code": Rules(begin_released, reason_to_end_released, cut_released, react_released),
    "port": Rules(begin_mended, reason_to_end_mended, cut_mended, react_mended),
}
