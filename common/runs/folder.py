"""The run folder: one writer, a manifest, a configuration that replays, and no silent mixture.

A run is unfinished until its manifest says "finished": opened again with the same configuration
it goes on where it stopped, with another one it is refused. The lock belongs to the process, so
the kernel frees it when the process is killed.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import filelock
import yaml
from jsonargparse import ArgumentParser

from common.errors import RunError
from common.files import (
    as_yaml,
    make_folder,
    plain,
    read_json,
    read_yaml,
    remove,
    remove_leftovers,
    sha256_of,
    write_json,
    write_text_atomically,
)  # fmt: skip
from common.runs.provenance import DECIDES_THE_BITS, environment_facts, first_difference, shown
from common.runtime import Strategy, worker_of

ENTRIES = ("manifest.json", "config.yaml", "split.json", "log.csv", "tensorboard", "prepared",
           "checkpoints", "model.keras", "predictions", "report")  # fmt: skip
"""All that a run makes; overwriting removes these and nothing else."""

_KINDS = {"paper": str, "status": str, "attempts": list, "data_files": dict, "packages": dict,
          "variables": dict, "runtime": dict, "git": dict}  # fmt: skip
"""Of the manifest's entries that are taken apart; the first two are always there."""
_LOCK = ".lock"
_NOT_COMPARED = ("run", "overwrite", "preset")
"""Options that may change when a run goes on: the preset acts through the configuration alone."""

ConfigT = TypeVar("ConfigT")


@dataclass(eq=False)
class Run:
    """One run folder; made by `open_run` (to write) or `load_run` (to read)."""

    path: Path
    config: Any
    """The paper's `Config` as given to `open_run`; from `load_run` the mapping of config.yaml
    (`load_config` gives the dataclass)."""
    manifest: dict
    """What manifest.json holds."""
    resumed: bool = False
    """Whether an unfinished run goes on."""
    writable: bool = False
    chiefs: Path | None = None
    """For a worker that is not the chief, the run folder itself: `path` is then a folder of its
    own, for what it writes like the chief and nobody reads."""

    @property
    def shared(self) -> Path:
        """The run folder that all workers of a training read; `path` where there is one."""
        return self.chiefs or self.path

    @property
    def paper(self) -> str:
        """Key of the paper's package."""
        return self.manifest["paper"]

    @property
    def status(self) -> str:
        """running, finished, failed or interrupted; a killed run still says running."""
        return self.manifest["status"]

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints; `open_run` makes it."""
        return self.path / "checkpoints"

    def record(self, **facts: Any) -> None:
        """Merge facts into the manifest, replacing those of the same name.

        If a run goes on under another `runtime` than it began with, a line on stderr says so.
        """
        if not self.writable:
            raise ValueError(f"{self.path} was opened for reading")
        facts = plain(facts)
        if self.resumed and "runtime" in facts and "runtime" in self.manifest:
            self._note_changes({"runtime": self.manifest["runtime"]}, {"runtime": facts["runtime"]})
        self.manifest.update(facts)
        write_json(self.path / "manifest.json", self.manifest)

    def record_files(self, paths: Iterable[Path]) -> None:
        """Add size and SHA-256 of data files to the manifest, which none may change later.

        Of a volume whose voxels lie in other files than its header, those are data files, too.
        """
        from common.data.volumes import files_of  # numpy and nibabel, which no help needs

        known = dict(self.manifest.get("data_files", {}))
        for path in (file for each in paths for file in files_of(Path(each))):
            try:
                entry = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            except OSError as failure:
                raise RunError(f"{path} cannot be read: {failure.strerror}") from failure
            before = known.setdefault(str(path), entry)
            if self.resumed and before != entry:
                raise RunError(
                    f"{path} has changed since the run in {self.path} began (sha256 "
                    f"{before['sha256'][:12]} then, {entry['sha256'][:12]} now); "
                    "restore the file, or start over with --overwrite or another folder"
                )
            known[str(path)] = entry
        self.record(data_files=known)

    def write_split(self, split: Mapping[str, Iterable[Mapping]]) -> None:
        """Write split.json, the cases of every subset; a run that goes on must have the same."""
        new = plain({name: list(cases) for name, cases in split.items()})
        path = self.path / "split.json"
        if self.resumed and path.exists() and (found := first_difference(self.read_split(), new)):
            field, old, now = found
            raise RunError(
                f"the cases differ from {path}, with which this run began: {field} was "
                f"{shown(old)}, now {shown(now)}; restore the data, or start over with --overwrite "
                "or another folder"
            )
        write_json(path, new)

    def read_split(self) -> dict[str, list[dict]]:
        """Return the cases of every subset as `write_split` stored them (paths as strings)."""
        split = read_json(self.path / "split.json")
        parts = list(split.values()) if isinstance(split, dict) else [None]
        if not all(
            isinstance(p, list) and all(isinstance(case, dict) for case in p) for p in parts
        ):
            raise RunError(f"{self.path / 'split.json'} is damaged; expected the cases by subset")
        return split

    def _end(self, status: str, **facts: Any) -> None:
        now = _now()
        self.manifest["attempts"][-1].update(status=status, ended=now, **facts)
        self.manifest.pop("error", None)
        self.record(status=status, finished=now if status == "finished" else None, **facts)

    def _note_changes(self, old: Any, new: Any) -> None:
        if difference := first_difference(old, new):
            field, before, now = difference
            self.manifest["attempts"][-1].setdefault("changed", {})[field] = [before, now]
            print(f"note: the run in {self.path} began with {field} {shown(before)}, now "
                  f"{shown(now)}: it may not end bit for bit like an unbroken run",
                  file=sys.stderr)  # fmt: skip


@contextmanager
def open_run(
    path: Path, *, paper: str, options: dict, config: Any, seed: int, overwrite: bool = False,
    strategy: Strategy | None = None,
) -> Iterator[Run]:  # fmt: skip
    """Open a run folder for its one writer and keep its manifest true to the end.

    A new or empty folder starts a run. A finished run is refused unless `overwrite`. An unfinished
    one goes on if paper, seed, options (but run, overwrite and preset) and configuration are equal.
    The manifest ends as "finished", "interrupted" (Ctrl-C) or "failed" (any other exception, which
    passes on).

    Args:
        path: the folder; missing parents are made.
        paper: key of the paper's package.
        options: the command's options by name, for config.yaml, without `config` and `overwrite`.
        config: the paper's resolved `Config`; its fields follow the options in the file.
        seed: of the whole run.
        overwrite: remove what an earlier run made (`ENTRIES`, never a foreign file) and begin anew.
        strategy: how several devices share the training. Of several workers the chief is the
            writer; the others read the folder and write what they make to a passing one.
    Returns:
        Context manager giving the `Run`.
    Raises:
        RunError: the folder is in use, finished, of another configuration, not writable, or not a
            run folder though it holds files named like a run's.
        OptionError: the workers are not named (see `worker_of`).
    """
    path = Path(path)
    stored = _stored_options(options, config=config, seed=seed)
    if worker_of(strategy)[0] > 0:
        with TemporaryDirectory(prefix=f"{paper}-worker-") as own:
            if not overwrite:  # refused as the chief is
                _prepare_folder(path, paper=paper, stored=stored, overwrite=False)
            run = _begin(Path(own), paper=paper, stored=stored, config=config, resumed=False)
            run.chiefs = path
            yield run
        return
    make_folder(path, f"run folder {path}")
    with _locked(path):
        resumed = _prepare_folder(path, paper=paper, stored=stored, overwrite=overwrite)
        run = _begin(path, paper=paper, stored=stored, config=config, resumed=resumed)
        try:
            yield run
        except BaseException as failure:
            # The failure matters more than a manifest that cannot be written on a full disk.
            with suppress(RunError):
                if isinstance(failure, KeyboardInterrupt):
                    run._end("interrupted")
                else:
                    message = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
                    run._end("failed", error=message.rstrip(": ")[:2000])
            raise
        run._end("finished")


def load_run(path: Path) -> Run:
    """Open a run folder, in whatever state, for reading; raise `RunError` if it is not one."""
    path = Path(path)
    if not (path / "manifest.json").is_file():
        raise RunError(f"{path} is not a run folder: expected manifest.json in it")
    return Run(path, read_yaml(path / "config.yaml"), _read_manifest(path))


def load_config(path: Path, config_class: type[ConfigT]) -> ConfigT:
    """Rebuild the configuration of a run folder; fields that config.yaml lacks have their defaults.

    Raises:
        RunError: config.yaml is missing or unreadable, or a field has a value of another type.
    """
    source = Path(path) / "config.yaml"
    if not source.is_file():
        load_run(path)  # says so if it is not a run folder at all
    known = {field.name for field in fields(config_class)}
    values = {key: item for key, item in read_yaml(source).items() if key in known}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config_class, "config")
    try:
        return parser.instantiate(parser.parse_object({"config": values})).config
    except (Exception, SystemExit) as failure:
        raise RunError(f"{source}: {' '.join(str(failure).split())}") from failure


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = filelock.FileLock(path / _LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        owner = "another process"
        with suppress(RunError, KeyError):
            manifest = _read_manifest(path)
            if manifest["status"] == "running":
                owner = f"process {manifest['pid']} on {manifest['host']}"
        raise RunError(
            f"run folder {path} is in use by {owner}; wait for it or give another folder"
        ) from None
    except OSError as failure:
        raise RunError(f"run folder {path} cannot be written: {failure.strerror}") from failure
    try:
        yield
    finally:
        lock.release()


def _prepare_folder(path: Path, *, paper: str, stored: dict, overwrite: bool) -> bool:
    """Refuse, clear or accept the folder; return whether an unfinished run goes on in it."""
    if not (path / "manifest.json").exists():
        if occupied := [name for name in ENTRIES if (path / name).exists()]:
            raise RunError(
                f"{path} is not a run folder: it holds {occupied[0]} but no manifest.json; give "
                "another folder"
            )
        return False
    if overwrite:
        _clear(path)
        return False
    manifest = _read_manifest(path)
    if manifest["status"] == "finished":
        raise RunError(
            f"the run in {path} is finished, and only an unfinished one goes on; give another "
            "folder, also for a longer training, or --overwrite to start it anew"
        )
    if not (path / "config.yaml").exists():
        return False
    old = {"paper": manifest["paper"], **read_yaml(path / "config.yaml")}
    new = {"paper": paper, **stored}
    if difference := first_difference(
        *({k: v for k, v in each.items() if k not in _NOT_COMPARED} for each in (old, new))
    ):
        field, before, now = difference
        raise RunError(
            f"the unfinished run in {path} has {field} {shown(before)}, but {shown(now)} is "
            "asked for; give the same options to go on, another folder, or --overwrite"
        )
    return True


def _begin(path: Path, *, paper: str, stored: dict, config: Any, resumed: bool) -> Run:
    facts = environment_facts()
    old = _read_manifest(path) if resumed else {}
    manifest = {"paper": paper, "status": "running", "seed": stored["seed"], "started": _now()}
    manifest |= facts | old | {"status": "running", "finished": None}
    # The manifest's top level says how the run began; its pid, who writes now.
    manifest |= {"pid": facts["pid"], "host": facts["host"]}
    attempt = {"started": _now(), "status": "running", "command": facts["command"]}
    manifest["attempts"] = [*old.get("attempts", []), attempt]
    run = Run(path, config, manifest, resumed, writable=True)
    for name in (name for name in DECIDES_THE_BITS if name in old):
        run._note_changes({name: old[name]}, {name: facts[name]})
    remove_leftovers(path)
    run.record()
    if not resumed:
        header = f"# python -m {paper} train --config <this file> --run <new folder>\n"
        write_text_atomically(path / "config.yaml", header + as_yaml(stored))
    make_folder(run.checkpoints)
    remove_leftovers(run.checkpoints)
    return run


def _read_manifest(path: Path) -> dict:
    """Read the manifest of a run folder; its entries are of the kinds that a run writes."""
    manifest = read_json(path / "manifest.json")
    entries = manifest if isinstance(manifest, dict) else {}
    wrong = [
        name for name, kind in _KINDS.items()
        if not isinstance(entries.get(name, None if kind is str else kind()), kind)
    ]  # fmt: skip
    files = [] if wrong else entries.get("data_files", {}).values()
    if wrong or not all(isinstance(e, dict) and isinstance(e.get("sha256"), str) for e in files):
        raise RunError(
            f"{path / 'manifest.json'} is damaged at {', '.join(wrong) or 'data_files'}; expected "
            "the manifest of a run"
        )
    return manifest


def _clear(path: Path) -> None:
    # The manifest goes last: a clearing that is killed half-way can be repeated.
    for name in reversed(ENTRIES):
        try:
            remove(path / name)
        except OSError as failure:
            raise RunError(f"{path / name} cannot be removed: {failure.strerror}") from failure


def _stored_options(options: Mapping, *, config: Any, seed: int) -> dict:
    kept = {key: item for key, item in options.items() if key not in ("config", "overwrite")}
    stored = plain({**kept, "seed": seed, **plain(config)})
    # What the file will give back, so that old and new are compared alike.
    return yaml.safe_load(as_yaml(stored)) or {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
