"""Damage every kind of file that a user hands in, and see what the suite makes of it.

`make fuzz [MINUTES=10] [SEED=0]`. Good files of each kind are made once; then, again and again, one
of them is damaged and read as the command would read it, in a process of its own with limits. What
may come out: the input is taken, or refused in one line. What may not: a traceback, a crash of the
process, more than 20 seconds, more than 2 GiB, a file outside the output folder. Inputs that lead
to those are kept in fuzz-found/.
"""

import argparse
import contextlib
import gzip
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.runtime import load_tensorflow_quietly

load_tensorflow_quietly()  # imported once for all; no operation runs before the fork

import commands  # noqa: E402
import h5py  # noqa: E402
import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402

from common.errors import UserError  # noqa: E402
from common.evaluation.claims_reader import read_claims  # noqa: E402
from common.export.passport import check_folder, read_passport  # noqa: E402
from common.network.keras_file import read_arrays  # noqa: E402
from common.runs.folder import load_config, load_run  # noqa: E402
from common.runs.log import read_log  # noqa: E402
from common.training.checkpoints import read_checkpoint  # noqa: E402
from dhcp_fetal.cfg.fields import resolve_config  # noqa: E402
from dhcp_fetal.config import PORT  # noqa: E402
from fetal_brain.config import Config  # noqa: E402
from sarcoma.original_weights import read_original as read_keras2  # noqa: E402
from vertebra.original_weights import read_original as read_pth  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 20
MOST_BYTES = 2 * 2**30
FOUND = Path("fuzz-found")

WORDS = [
    "nan", "inf", "-1", "0", "1e999", "9" * 20, "../../../etc/passwd", "\x00", "\x1b[31m", "=1+1",
    "é", "a" * 5000, "", "[]", "{}", "null", "&a [*a, *a]", "!!python/object/apply:os.abort",
    '"', "'", ",", ";", "\t", "\n", "- ", ": ", "0x1F", "1_000", "001", "²", "2026-11-26",
]  # fmt: skip
NUMBERS = [0, 1, -1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1]


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    name: str
    folder: Path
    """Good files, copied for each trial."""
    damaged: str
    """The one of them that is damaged."""
    read: Callable[[Path], int]
    """Reads what is in a copy of the folder as the suite does; 0: taken, 2: refused."""


def command(package: str, *words: str) -> Callable[[Path], int]:
    """A command of the suite with `{}` for the folder."""
    main = __import__(f"{package}.__main__", fromlist=["main"]).main

    def read(folder: Path) -> int:
        sys.argv = [package, *(word.format(folder) for word in words)]
        return main()

    return read


def reader(function: Callable[[Path], object]) -> Callable[[Path], int]:
    """A room's function, which raises UserError where it refuses."""

    def read(folder: Path) -> int:
        try:
            function(folder)
        except UserError as refusal:
            print(refusal, file=sys.stderr)
            return 2
        return 0

    return read


def make_kinds(folder: Path) -> list[Kind]:
    """Write good files of every kind with the suite's own commands."""
    made = folder / "good"

    def run(package: str, *words: object) -> None:
        commands.run_alone(package, *words, cwd=folder).ok()

    run("fetal_brain", "phantom", "--out", made / "fetal", "--cases", 5, "--shape", "3,64,64")
    small = ["--preset", "quick", "--filters", "2,2,2", "--kernels", "3,3,1",
             "--patch_shape", "3,32,32", "--held_out_cases", 2]  # fmt: skip
    run("fetal_brain", "train", "--train_csv", made / "fetal/phantom.csv", "--run", made / "run/r",
        "--max_steps", 2, "--steps_per_evaluation", 2, "--batch_size", 2, *small)  # fmt: skip
    run("fetal_brain", "export", "--run", made / "run/r", "--to", made / "models")
    run("raseg", "phantom", "--out", made / "raseg", "--cases", 3, "--shape", "32,32,6")
    run("sarcoma", "phantom", "--out", made / "sarcoma", "--plane", 64)
    run("vertebra", "phantom", "--out", made / "vertebra", "--cases", 2, "--shape", "56,90,80")
    run("dhcp_fetal", "phantom", "--out", made / "dhcp", "--cases", 2)
    kinds = []

    def add(name, source, damaged, read):
        kinds.append(Kind(name, made / source, damaged, read))

    check_fetal = command("fetal_brain", "prepare", "--check", "--train_csv", "{}/phantom.csv",
                          "--preset", "quick")  # fmt: skip
    add("CSV list", "fetal", "phantom.csv", check_fetal)
    add("NIfTI, .nii.gz", "fetal", "imgs/PHANTOM0000.nii.gz", check_fetal)
    add("label map, .nii.gz", "fetal", "seg/PHANTOM0000.nii.gz", check_fetal)
    image = sitk.ReadImage(str(made / "fetal/imgs/PHANTOM0000.nii.gz"))
    bare = sitk.GetImageFromArray(sitk.GetArrayFromImage(image))  # without NIfTI's own fields
    bare.CopyInformation(image)
    for ending, part in ((".nii", ""), (".mha", ""), (".mhd", ""), (".mhd", ".raw"), (".nrrd", "")):
        name = f"as{part or ending}"
        if not (made / name).exists():
            shutil.copytree(made / "fetal", made / name)
            sitk.WriteImage(bare, str(made / name / f"imgs/a{ending}"))
            listing = made / name / "phantom.csv"
            text = listing.read_text()
            listing.write_text(text.replace("imgs/PHANTOM0000.nii.gz", f"imgs/a{ending}"))
        add(f"volume, {part or ending}", name, f"imgs/a{part or ending}", check_fetal)
    check_dhcp = command("dhcp_fetal", "prepare", "--check", "--images", "{}/brain.csv")
    add("table with a header", "dhcp", "brain.csv", check_dhcp)
    check_raseg = command("raseg", "prepare", "--check", "--data", "{}", "--val", "1",
                          "--validation_volumes", "1", "--preset", "quick")  # fmt: skip
    for name in ("images_and_labels.npy", "pre_images.npy", "phantom.json"):
        add(f"raseg, {name}", "raseg", name, check_raseg)
    (petct,) = (path.name for path in (made / "sarcoma").glob("*.h5"))
    add(
        "HDF5 of PET/CT",
        "sarcoma",
        petct,
        command("sarcoma", "prepare", "--check", "--preset", "quick", "--data", f"{{}}/{petct}"),
    )
    check_spine = command("vertebra", "prepare", "--check", "--preset", "quick", "--dataset", "{}")
    add("spine, .mhd", "vertebra", "case1.mhd", check_spine)
    add("spine's labels, .mhd", "vertebra", "case1_label.mhd", check_spine)
    for name in ("config.yaml", "split.json", "manifest.json", "log.csv"):
        add(f"run folder, {name}", "run", f"r/{name}", reader(read_run))
    add(
        "checkpoint",
        "run",
        "r/checkpoints/last.npz",
        reader(lambda here: read_checkpoint(here / "r/checkpoints/last.npz")),
    )
    add(
        "network, .keras",
        "run",
        "r/model.keras",
        reader(lambda here: read_arrays(here / "r/model.keras")),
    )
    add(
        "--config",
        "run",
        "r/config.yaml",
        command(
            "fetal_brain",
            "train",
            "--config",
            "{}/r/config.yaml",
            "--run",
            "again",
            "--max_steps",
            "2",
        ),
    )
    add("passport", "models", "fetal_brain/1/passport.json", reader(read_model))
    (made / "claims/fetal_brain").mkdir(parents=True)
    shutil.copy(ROOT / "fetal_brain/claims.yaml", made / "claims/fetal_brain")
    add(
        "claims", "claims", "fetal_brain/claims.yaml",
        reader(lambda here: read_claims(here / "fetal_brain/claims.yaml")),
    )  # fmt: skip
    (made / "pth").mkdir()
    for name in ("small_legacy.pth", "small_zip.pth"):
        shutil.copy(ROOT / "tests/golden/vertebra" / name, made / "pth")
        add(f"PyTorch, {name}", "pth", name, reader(lambda here, name=name: read_pth(here / name)))
    (made / "keras2").mkdir()
    with h5py.File(made / "keras2/model.h5", "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"conv2d"]
        layer = group.create_group("conv2d")
        layer.attrs["weight_names"] = [b"conv2d/kernel:0", b"conv2d/bias:0"]
        layer["conv2d/kernel:0"] = np.zeros((3, 3, 1, 4), np.float32)
        layer["conv2d/bias:0"] = np.zeros(4, np.float32)
    add("Keras 2, .h5", "keras2", "model.h5", reader(lambda here: read_keras2(here / "model.h5")))
    examples = ROOT.parent / "shared/data/deepmedic_examples/configFiles/tinyCnn"
    if examples.is_dir():  # the engine's own files lie beside the project, not in it
        shutil.copytree(examples, made / "cfg", copy_function=shutil.copyfile)
        model, train = "model/modelConfig.cfg", "train/trainConfigWithValidation.cfg"
        for name in (model, train):
            add(
                f"DeepMedic's {Path(name).name}",
                "cfg",
                name,
                reader(
                    lambda here: resolve_config(
                        PORT, "port", model=here / model, train=here / train
                    )
                ),
            )
    return kinds


def read_run(folder: Path) -> None:
    load_run(folder / "r")
    load_config(folder / "r", Config)
    read_log(folder / "r")


def read_model(folder: Path) -> None:
    read_passport(folder / "fetal_brain/1")
    check_folder(folder / "fetal_brain/1")


def damage(path: Path, chance: random.Random) -> None:
    """Change a file: its text or its bytes, of a compressed one mostly what is in it."""
    content = path.read_bytes()
    inside = path.suffix == ".gz" and chance.random() < 0.8
    if inside:
        content = gzip.decompress(content)
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        is_text = path.suffix in (".csv", ".json", ".yaml", ".cfg", ".mhd")
        head = min(len(data), chance.choice((64, 400, 4000, 10**9)))
        place = chance.randrange(head + 1)
        match chance.randrange(8 if is_text else 6):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << chance.randrange(8)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = chance.randbytes(chance.choice((1, 4, 100)))
            case 3:
                width = chance.choice((2, 4, 8))
                number = chance.choice(NUMBERS) % 2 ** (8 * width)
                data[place : place + width] = number.to_bytes(width, "little")
            case 4:
                del data[place : place + chance.choice((1, 4, 100))]
            case 5:
                data[place:place] = data[: chance.choice((4, 100, 4000))]
            case _:
                parts = data.split(chance.choice((b",", b"\n", b" ", b"=", b":", b'"')))
                parts[chance.randrange(len(parts))] = bytearray(chance.choice(WORDS).encode())
                data = bytearray(chance.choice((b",", b"\n", b" ", b"=", b": ")).join(parts))
    path.write_bytes(gzip.compress(bytes(data), 1) if inside else bytes(data))


def trial(kind: Kind, chance: random.Random | None, sandbox: Path) -> tuple[str, str]:
    """Read one damaged copy, an undamaged one without `chance`, in a process of its own; return
    the class of outcome and what was said."""
    here, out = sandbox / "in", sandbox / "out"
    for folder in (here, out):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kind.folder, here)
    if chance:
        damage(here / kind.damaged, chance)
    out.mkdir()
    before = listing(sandbox)
    said = sandbox / "said.txt"
    child = os.fork()
    if child == 0:
        become(kind, here, out, said)
    status, used = wait(child)
    text = said.read_text(errors="replace") if said.exists() else ""
    lines = [line for line in text.splitlines() if line.strip() and "%|" not in line]
    if status is None:
        return f"over {LONGEST_S} s", text
    if os.WIFSIGNALED(status):
        return f"crash, {signal.Signals(os.WTERMSIG(status)).name}", text
    if listing(sandbox) - before - {said}:
        return "file outside the output folder", text
    if used > MOST_BYTES:
        return "over 2 GiB", text
    code = os.WEXITSTATUS(status)
    if "Traceback (most recent call last)" in text or code not in (0, 2):
        return "traceback", text
    if code == 2 and len(lines) != 1:
        return "refused in other than one line", text
    return ("taken", "refused")[code == 2], text


def become(kind: Kind, here: Path, out: Path, said: Path) -> None:
    """The child: read with limits and end, without a way back into the loop."""
    code = 3
    try:
        start = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (start + 2 * MOST_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.setsid()
        os.chdir(out)
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="replace")
        sys.stdout = os.fdopen(os.dup(1), "w")
        code = kind.read(here)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 2
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code or 0)


def wait(child: int) -> tuple[int | None, int]:
    """Return a child's status, None where it took too long, and its largest resident bytes beyond
    those of this process."""
    began, own = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, (usage.ru_maxrss - own) * 1024
        if time.monotonic() - began > LONGEST_S:
            os.kill(child, signal.SIGKILL)
            os.wait4(child, 0)
            return None, 0
        time.sleep(0.002)


def listing(sandbox: Path) -> set[Path]:
    """All files below the sandbox but those in the output folder."""
    return {path for path in sandbox.rglob("*") if "out" not in path.relative_to(sandbox).parts[:1]}


def keep(kind: Kind, outcome: str, text: str, sandbox: Path, number: int) -> Path:
    """Keep the damaged file and what was said of it."""
    name = f"{outcome}-{kind.name}-{number}".replace(" ", "_").replace("/", "_").replace(",", "")
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(sandbox / "in" / kind.damaged, folder)
    (folder / "said.txt").write_text(text)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="", help="only kinds whose name holds this")
    options = parser.parse_args()
    chance, counts, wrong = random.Random(options.seed), Counter(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        kinds = [kind for kind in make_kinds(Path(folder)) if options.kind in kind.name]
        sandbox = Path(folder) / "trial"
        sandbox.mkdir()
        for kind in kinds:
            outcome, text = trial(kind, None, sandbox)
            if outcome != "taken":
                raise SystemExit(f"the good file of {kind.name}: {outcome}: {text}")
        end, number = time.monotonic() + 60 * options.minutes, 0
        while time.monotonic() < end:
            kind = kinds[number % len(kinds)]
            outcome, text = trial(kind, chance, sandbox)
            counts[kind.name, outcome] += 1
            if outcome not in ("taken", "refused"):
                wrong[outcome] += 1
                place = keep(kind, outcome, text, sandbox, number)
                last = text.strip().splitlines()[-1] if text.strip() else ""
                print(f"{outcome}: {kind.name}, {place}: {last[:150]}", flush=True)
            number += 1
    for kind in kinds:
        row = {outcome: n for (name, outcome), n in counts.items() if name == kind.name}
        print(f"{kind.name}: {', '.join(f'{n} {outcome}' for outcome, n in sorted(row.items()))}")
    total = sum(wrong.values())
    print(f"{number} inputs, {total} of them neither taken nor refused in one line: {dict(wrong)}")
    return bool(total)


if __name__ == "__main__":
    sys.exit(main())
