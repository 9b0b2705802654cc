"""Where training segments lie: maps of categories, the cases' shares, centres; and the segments.

Volumes are (x, y, z) of the padded image. Functions that draw take the generator from their caller;
both kinds of numpy generators will do.
"""

from dataclasses import replace

import numpy as np

from dhcp_fetal import geometry
from dhcp_fetal.augmentation import augment_segment
from dhcp_fetal.config import Config, Sampling
from dhcp_fetal.data import Case
from dhcp_fetal.geometry import Triple
from dhcp_fetal.normalisation import zscore
from dhcp_fetal.tiles import PaddedCase, border_means, box, cut_segment, plan_padding, reflect


def pad_training_case(case: Case, image: np.ndarray, config: Config, segment: Triple) -> Case:
    """Return a case padded for segments of a size; its image is that of `prepare_case`.

    The engine's own normalisation is applied where it is switched on.
    """
    pads = plan_padding(image.shape[:3], config, segment)
    mask = None if case.mask is None else reflect(case.mask, pads)
    maps = case.weight_maps
    maps = None if maps is None else np.stack([reflect(m, pads) for m in maps])
    image = zscore(reflect(image, pads), config, mask=mask).astype(np.float32, copy=False)
    return replace(
        case, image=image, labels=reflect(case.labels, pads), mask=mask, weight_maps=maps
    )


def count_categories(kind: Sampling, config: Config, weight_maps: int = 0) -> int:
    """Return the number of categories that samples are shared among."""
    if weight_maps:
        return weight_maps
    return {"foreground_background": 2, "per_class": config.classes}.get(kind, 1)


def category_maps(case: Case, kind: Sampling, config: Config) -> list[np.ndarray]:
    """Return where the samples of each category may be centred: (x, y, z), bool or float32 weights.

    A case's weight maps replace all others. "foreground_background" gives label > 0, then the rest;
    "per_class" one map per class; else the mask. All within the mask where there is one.
    Source: sampling.py and samplingType.py of DeepMedic; specification 3.5.
    """
    if case.weight_maps is not None:
        return list(case.weight_maps)
    inside = np.ones(case.image.shape[:3], bool) if case.mask is None else case.mask > 0
    if kind == "foreground_background":
        foreground = (case.labels > 0) & inside
        return [foreground, inside & ~foreground]
    if kind == "per_class":
        return [(case.labels == c) & inside for c in range(config.classes)]
    return [inside]


def centre_range(size: int, segment: int) -> tuple[int, int]:
    """Return the centres, first and behind the last, whose segment stays in the image on one axis.

    The centre of an even segment is the voxel before its middle.
    """
    first = (segment - 1) // 2
    return first, size - segment // 2


def keep_inside(weights: np.ndarray, segment: Triple) -> np.ndarray:
    """Return a map cut down to the centres whose segment stays in the image."""
    return weights[_valid_box(weights.shape, segment)]


def share_among_cases(samples: int, cases: int, rng) -> np.ndarray:
    """Return each case's samples: equal ones, the rest at random (`get_n_samples_per_subj`)."""
    counts = np.full(cases, samples // cases)
    np.add.at(counts, rng.choice(cases, samples % cases), 1)
    return counts


def share_among_categories(samples: int, proportions: np.ndarray, rng) -> np.ndarray:
    """Return each category's samples: proportional, the rest drawn with the proportions.

    Proportions are weights of any sum, 0 for a category that is absent.
    """
    shares = np.asarray(proportions, np.float32)
    shares = shares / shares.sum(dtype=np.float32)
    counts = (samples * shares.astype(np.float64)).astype(int)
    exact = shares.astype(np.float64)
    rest = rng.choice(len(shares), samples - counts.sum(), p=exact / exact.sum())
    np.add.at(counts, rest, 1)
    return counts


def draw_centres(weights: np.ndarray, samples: int, segment: Triple, rng) -> np.ndarray:
    """Draw centres (samples, 3) int with replacement, proportionally to a map.

    The map (x, y, z) is 0 where no centre may lie, bool or weights; segments stay in the image.
    """
    allowed = keep_inside(weights, segment)
    flat = allowed.reshape(-1)
    if weights.dtype == bool:
        places = np.flatnonzero(flat)
        chosen = places[rng.choice(len(places), samples)]
    else:
        ends = np.cumsum(flat, dtype=np.float64)
        chosen = np.searchsorted(ends, rng.uniform(size=samples) * ends[-1], side="right")
    firsts = [span.start for span in _valid_box(weights.shape, segment)]
    return np.stack(np.unravel_index(chosen, allowed.shape), axis=1) + firsts


def draw_case_centres(
    case: Case, counts: np.ndarray | int, kind: Sampling, config: Config, *, segment: Triple,
    proportions: tuple[float, ...] | None, rng,
) -> np.ndarray:  # fmt: skip
    """Draw the centres (samples, 3) int of one case's samples.

    Categories that are absent from the case give their samples to the others; where all are, any
    place will do whose segment stays in the image.
    `counts` are the samples of the case, or [D10] of each category; no proportions: equal ones.
    """
    maps = category_maps(case, kind, config)
    present = np.array([keep_inside(weights, segment).any() for weights in maps])
    if not present.any():
        maps, present = [np.ones(case.image.shape[:3], bool)], np.array([True])
        counts = int(np.sum(counts))
    shares = np.ones(len(maps)) if proportions is None or len(maps) == 1 else proportions
    shares = np.where(present, shares, 0.0)
    if not shares.any():
        shares = present.astype(float)
    if np.ndim(counts):
        missing = int(counts[~present].sum())
        counts = np.where(present, counts, 0) + share_among_categories(missing, shares, rng)
    else:
        counts = share_among_categories(int(counts), shares, rng)
    drawn = [draw_centres(weights, count, segment, rng)
             for weights, count in zip(maps, counts, strict=True) if count]  # fmt: skip
    return np.concatenate(drawn) if drawn else np.zeros((0, 3), int)


def share_subepoch(
    samples: int, cases: int, categories: int, config: Config, *, proportions, rng
) -> list[np.ndarray | int]:
    """Return what each case of a subepoch gives: a number, or numbers per category.

    [D10] v0.8.4 shares among cases first, and each case shares among its categories later; v0.7.0
    shares among categories first and each category's samples among cases.
    """
    if config.compat == "v0.8.4":
        return [int(count) for count in share_among_cases(samples, cases, rng)]
    shares = np.ones(categories) if proportions is None else proportions
    per_category = share_among_categories(samples, shares, rng)
    return list(np.stack([share_among_cases(n, cases, rng) for n in per_category], axis=1))


def cut_sample(case: Case, border: np.ndarray, centre, segment: Triple, config: Config):
    """Cut one segment around a voxel, with its contexts, and the labels of what is predicted of it.

    Returns [segment, context, ...] (x, y, z, channels) float32 and labels (x', y', z') uint8.
    """
    corner = [int(c) - (edge - 1) // 2 for c, edge in zip(centre, segment, strict=True)]
    padded = PaddedCase(case.image, None, border, ((0, 0),) * 3)
    parts = cut_segment(padded, corner, segment, config, sampled=True)
    size = geometry.output_size(config, segment)
    low = [int(c) - (edge - 1) // 2 for c, edge in zip(centre, size, strict=True)]
    return parts, case.labels[box(low, size)]


def make_arrays(count: int, segment: Triple, config: Config) -> tuple[list[np.ndarray], np.ndarray]:
    """Return room for samples: one array (n, x, y, z, channels) float32 per input, and labels."""
    sizes = [segment, *geometry.context_sizes(config, segment)]
    inputs = [np.empty((count, *size, config.input_channels), np.float32) for size in sizes]
    return inputs, np.empty((count, *geometry.output_size(config, segment)), np.int32)


def cut_samples(
    case: Case, centres: np.ndarray, segment: Triple, config: Config, *,
    arrays: tuple[list[np.ndarray], np.ndarray], places: np.ndarray, make_rng=None,
) -> None:  # fmt: skip
    """Cut all samples of one case and put them where they belong among those of a subepoch.

    Those centred at `centres` (n, 3) go to `places` (n,) of `make_arrays`; one beyond the end is
    dropped. `make_rng` gives the generator of a sample's augmentation; None: no augmentation.
    """
    border = border_means(case.image).astype(np.float32)
    inputs, labels = arrays
    for number, (centre, place) in enumerate(zip(centres, places, strict=True)):
        if place >= len(labels):
            continue
        parts, truth = cut_sample(case, border, centre, segment, config)
        if make_rng is not None:
            parts, truth = augment_segment(parts, truth, config, make_rng(number))
        for target, part in zip(inputs, parts, strict=True):
            target[place] = part
        labels[place] = truth


def _valid_box(shape, segment: Triple) -> tuple[slice, ...]:
    ranges = [centre_range(size, edge) for size, edge in zip(shape, segment, strict=True)]
    return tuple(slice(*pair) for pair in ranges)
