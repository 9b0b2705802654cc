"""`python -m common publish-card models/<name>/<version>`: a card that the Hugging Face hub reads.

Everything in it is from the passport; nothing is sent anywhere. On which data the numbers were
measured stands beside each of them.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from common.cli import Parser
from common.errors import OptionError
from common.evaluation.claims import DataKind, data_of
from common.export.passport import check_folder, read_passport
from common.files import write_text_atomically
from common.report.page import PHANTOM_NOTICE, format_summary

CARD = "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the card of an exported model and print where it is; return 0."""
    parser = Parser(prog="python -m common publish-card", description=__doc__)
    parser.add_argument("model", type=Path, help="models/<name>/<version>")
    parser.add_argument("--to", type=Path, help="default: README.md beside the version")
    options = parser.parse_args(argv)
    check_folder(options.model)
    passport = read_passport(options.model)
    target = options.to or options.model.parent / CARD
    if target.resolve().is_relative_to(options.model.resolve()):
        raise OptionError(f"--to {target}: expected a place outside the version, whose files count")
    write_text_atomically(target, make_card(passport))
    print(f"Model card: {target}; nothing was sent")
    return 0


def make_card(passport: Mapping) -> str:
    """Return the card: its metadata as the hub has them, then the passport in words."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError:
        raise OptionError(
            "publish-card needs huggingface_hub: pip install 'segmentation-reproductions[hub]'"
        ) from None
    results = [
        hub.EvalResult(
            task_type="image-segmentation", dataset_type=kind.value.replace(" ", "-"),
            dataset_name=kind.words, metric_type=measure, metric_value=round(summary["mean"], 6),
            metric_name=f"{measure} of {label}, n = {summary['n']}",
        )
        for kind, label, measure, summary in measured(passport)
    ]  # fmt: skip
    data = hub.ModelCardData(
        library_name="keras",
        pipeline_tag="image-segmentation",
        tags=["medical", "image-segmentation", passport["paper"]],
        model_name=f"{passport['name']}-{passport['version']}",
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{describe(passport)}"


def measured(passport: Mapping) -> Iterator[tuple[DataKind, str, str, Mapping]]:
    """Yield on what kind of data, label, measure and summary of all that was evaluated."""
    metrics = passport.get("metrics") or {}
    phantom = metrics.get("phantom") or passport["data"]["kind"] == "phantom"
    kind = data_of(metrics.get("data") or {}, phantom=phantom).kind
    for label, summaries in (metrics.get("labels") or {}).items():
        for measure, summary in summaries.items():
            if summary.get("mean") is not None:
                yield kind, label, measure, summary


def describe(passport: Mapping) -> str:
    """Return the card's text."""
    found = list(measured(passport))
    code, data = passport["code"], passport["data"]
    lines = [f"# {passport['name']}, version {passport['version']}", ""]
    if any(kind is DataKind.PHANTOM for kind, *_ in found) or data["kind"] == "phantom":
        lines += [f"**{PHANTOM_NOTICE}**", ""]
    lines += [*(f"- {sentence}" for sentence in passport["intended_use"]), "", "## Inputs", ""]
    for name, entry in passport["inputs"].items():
        channels = ", ".join(entry["channels"])
        lines.append(f"- `{name}`: {entry['modality']}, axes {entry['axes']}, channels {channels}; "
                     f"orientation {entry['orientation']}; {entry['intensities']}")  # fmt: skip
    labels = ", ".join(f"{number}: {name}" for number, name in passport["labels"].items())
    lines += ["", f"Labels: {labels}.", "", "## What was measured", ""]
    lines += [f"- {measure} of {label}, {kind.words}: {format_summary(summary)}"
              for kind, label, measure, summary in found] or ["Nothing."]  # fmt: skip
    lines += ["", "## Limits", "", *(f"- {sentence}" for sentence in passport["limits"]), ""]
    lines += [
        f"Trained on {data['kind']} ({data['files']} files, sha256 {data['sha256']}) by "
        f"segmentation-reproductions at {code.get('commit')}; TensorFlow {code['tensorflow']}, "
        f"Keras {code['keras']}. `python -m common verify` checks the files against the passport.",
        "",
    ]
    return "\n".join(lines)
