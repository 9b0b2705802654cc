"""Turn a checkpoint of the original into a run folder with a Keras network."""

from dataclasses import replace
from pathlib import Path

from common.runs.folder import open_run
from dhcp_fetal.cfg.fields import resolve_config
from dhcp_fetal.config import Config, Preset


def convert(
    original: Path,
    run: Path,
    *,
    config: Config,
    preset: Preset = "code",
    model_cfg: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Turn a checkpoint of the original into a run folder with a Keras network.

    Args:
        original: checkpoint: prefix, .index or .data file, or folder.
        run: run folder to make; predict, export and compare take it.
        config: the network; options by hand, such as --normalisation, win.
        preset: where the numbers come from that no file settles.
        model_cfg: the original's model cfg (-model); without it the preset's network.
        overwrite: replace what an earlier run left in the folder.
    """
    from common.network.trained import save_network
    from dhcp_fetal.model import build_model
    from dhcp_fetal.original_weights import assign_original, files_of, read_original

    # The published networks were trained on normalised scans; doing it again changes nothing.
    wanted = config.normalisation
    config = replace(resolve_config(config, preset, model=model_cfg), normalisation=wanted)
    tensors = read_original(original)
    model = build_model(config)
    assign_original(model, tensors)
    options = {"preset": preset, "original": original, "model_cfg": model_cfg}
    with open_run(
        run, paper="dhcp_fetal", options=options, config=config, seed=0, overwrite=overwrite
    ) as record:
        record.write_split({"training": (), "validation": (), "test": ()})
        record.record_files(files_of(original))
        save_network(model, record.path / "model.keras")
    print(f"Converted network: {Path(run) / 'model.keras'} ({model.count_params()} values)")
