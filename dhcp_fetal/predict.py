"""Segment scans and write the results in their own geometry."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from common.cohort.work import HERE, Workers, segment_cases
from common.inference.extras import NONE, Extras
from common.runtime import configure_runtime
from dhcp_fetal.config import Preset
from dhcp_fetal.data import choose_cases
from dhcp_fetal.plans import Plan, list_items, plan_stages
from dhcp_fetal.session import Saved, read_test_session


def predict(
    run: Path | None = None,
    *,
    brain: Path | None = None,
    cortex: Path | None = None,
    image: Path | None = None,
    cases: Path | None = None,
    mask: Path | None = None,
    model_cfg: Path | None = None,
    test_cfg: Path | None = None,
    load: Path | None = None,
    device: str | None = None,
    out: Path | None = None,
    probabilities: bool = False,
    normalisation: Literal["none", "volume", "brain"] | None = None,
    resample: bool = False,
    preset: Preset | None = None,
    mixed_precision: bool = False,
    extras: Extras = NONE,
    on: Workers = HERE,
) -> None:
    """Segment scans: the brain, the cortex within it, or one network alone.

    With brain and cortex both are run one after the other: the brain that the first finds is the
    region of interest of the second. Without image, cases and test cfg: the held-out cases of the
    run. A scan in which no brain is found gets empty maps; the others are segmented, and the exit
    status is 2 at the end.

    Args:
        run: run folder of a single network.
        brain: run folder of the network that finds the brain.
        cortex: run folder of the network that works within it.
        image: one scan.
        cases: folder of scans, list file of scans, or table with channel_..., roi_mask.
        mask: region of interest of the one scan.
        model_cfg: the original's model cfg, with load (-model).
        test_cfg: the original's test cfg; its lists name scans, regions and results (-test).
        load: the original's checkpoint (-load).
        device: cpu, cuda or cuda0, cuda1, ...; default: what there is (-dev).
        out: folder of the results; default: predictions/ of the run, or where the original puts
            them.
        probabilities: write a map per class beside the label maps.
        normalisation: of the scans, instead of the network's own.
        resample: interpolate scans whose voxels are not of the size that a run was trained on, and
            bring the results back to their own grid; else such scans are refused. Scans of another
            orientation are turned and turned back, which changes no voxel.
        preset: whose way of inference to use; default: the network's own.
        mixed_precision: bfloat16 arithmetic.
        extras: what is done beyond the paper; of two networks, at each.
        on: who works on the scans.
    """
    session = None if test_cfg is None else read_test_session(test_cfg)
    stages = plan_stages(
        run=run, brain=brain, cortex=cortex, model_cfg=model_cfg, test_cfg=test_cfg,
        load=load or (session and session.weights), preset=preset, normalisation=normalisation,
        resample=resample, extras=extras,
    )  # fmt: skip
    home = cortex or run or brain
    chosen = choose_cases(image=image, cases=cases, mask=mask, session=session, home=home)
    folder = choose_out(out, session=session, home=home)
    saved = Saved(label_suffix="", probability_suffix="probability") if probabilities else None
    saved = saved if session is None else session.saved
    items = list_items(chosen, stages, folder, saved=saved)
    begin = partial(
        load_segmenter, stages, folder,
        saved=saved, device=device, mixed_precision=mixed_precision,
    )  # fmt: skip
    decides = [path for stage in stages for path in stage.files]
    # [G17] A run that is not whole ends with a status that says so.
    segment_cases(items, begin, what="scan", on=on, out=folder, decides=decides)
    extras.record(folder)


def load_segmenter(
    stages: Sequence[Plan], out: Path, *, saved: Saved | None, device: str | None,
    mixed_precision: bool,
) -> Callable:  # fmt: skip
    """Load the networks of some plans and return what segments a case; see `segment_case`."""
    from dhcp_fetal import chain, networks

    networks.choose_device(device)
    configure_runtime(seed=0, mixed_precision=mixed_precision)
    loaded = [chain.load_stage(stage) for stage in stages]
    return partial(chain.segment_case, stages=loaded, out=out, saved=saved)


def choose_out(out, *, session, home) -> Path:
    """Return the folder of the results: as asked, as the original's, or in the run."""
    if out is not None or session is None:
        return out or (home or Path()) / "predictions"
    return session.output_folder / "predictions" / session.name / "predictions"
