"""The command line: options from signatures, presets as defaults, one line per mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import cli
from common.cohort.work import Workers
from common.errors import OptionError
from fetal_brain.config import PORT


def run(*words, cwd=None, options=()):
    """Run `python -m fetal_brain` as a user would."""
    return subprocess.run(
        [sys.executable, *options, "-m", "fetal_brain", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


@pytest.mark.slow
def test_every_help_loads_nothing_slow():
    """What takes its time is TensorFlow, and pictures and tables of data."""
    slow = ("tensorflow", "keras", "matplotlib", "pandas", "SimpleITK")
    for words in ([], *([verb] for verb in cli.find_commands("fetal_brain"))):
        done = run(*words, "--help", options=("-X", "importtime"))
        assert done.returncode == 0
        assert "usage: python -m fetal_brain" in done.stdout
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not loaded & {*slow}, words


def test_help_lists_the_commands_with_their_first_lines():
    text = run("--help").stdout
    assert "train      Train the network on the first cases of a list" in text
    assert "deploy     the original's name of `predict`" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tra"], "unknown command 'tra'"),
        (["train", "--colour", "red"], "--colour"),
        (["train", "--preset", "cod"], "--preset: expected one of"),
        (["train", "--seed", "many"], "--seed: expected a int"),
        (["train", "--window", "3"], "--window"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml is not a file"),
        (["train", "--run_validation", "perhaps"], "--run_validation: expected a bool"),
        (["predict", "--mode", "TRAIN"], "--mode: expected one of 'EVAL', 'PREDICT'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words, expected):
    done = run(*words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr


def test_print_config_shows_the_preset_with_single_numbers_changed():
    text = run("train", "--preset", "code", "--batch-size", "3", "--print_config").stdout
    assert "preset: code\n" in text
    assert "batch_size: 3\n" in text
    assert "count_last_window_twice: true\n" in text


def test_config_file_brings_its_preset_and_options_after_it_win(tmp_path):
    saved = tmp_path / "config.yaml"
    saved.write_text("preset: code\nmax_steps: 7\nfilters: [4, 4]\n")
    text = run("train", "--config", saved, "--max_steps", "8", "--print_config").stdout
    assert "preset: code\n" in text
    assert "max_steps: 8\n" in text
    assert "filters:\n- 4\n- 4\n" in text
    assert "dropout: 0.0\n" in text


def test_unknown_field_in_a_config_file_is_refused(tmp_path):
    saved = tmp_path / "config.yaml"
    saved.write_text("preset: code\nlearning_speed: 7\n")
    done = run("train", "--config", saved)
    assert done.returncode == 2
    assert "learning_speed" in done.stderr


def test_a_config_file_that_is_code_is_not_run(tmp_path):
    saved = tmp_path / "config.yaml"
    trace = tmp_path / "ran"
    saved.write_text(f'preset: !!python/object/apply:os.system ["touch {trace}"]\n')
    assert run("train", "--config", saved).returncode == 2
    assert not trace.exists()


def test_original_names_and_hyphens_are_understood():
    words = ["-p", "folder", "--label-ids", "0,2", "--patch-shape=3,16,16", "-1", "a-b"]
    expected = ["--run", "folder", "--label_ids", "0,2", "--patch_shape=3,16,16", "-1", "a-b"]
    assert cli.spell_options(words, {"-p": "--run"}) == expected


def test_names_may_be_typed_without_brackets():
    def verb(modalities: tuple[str, ...], patients: tuple[str, ...] | None, out: str) -> None: ...

    words = ["--modalities", "ct", "--patients=A_1,B-2", "--out", "a,b", "--patients", "null"]
    types = cli.types_of_options(verb, PORT.__class__)
    assert cli.bracket_tuples(words, types) == [
        "--modalities", '["ct"]', '--patients=["A_1", "B-2"]', "--out", "a,b", "--patients", "null",
    ]  # fmt: skip
    assert cli.bracket_tuples(["--modalities", "[ct, 1e5]"], types)[1] == '["ct", "1e5"]'
    assert cli.bracket_tuples(["--modalities", '["a,b"]'], types)[1] == '["a,b"]'


@pytest.mark.parametrize("typed", ["001,010", "[001, 010]", '["001","010"]'])
def test_identifiers_stay_text(typed):
    """YAML would read 1 and 8."""
    words = ["--training_patients", typed]
    _, _, values = cli.parse_command("sarcoma", "train", words, {})
    assert values.training_patients == ("001", "010")


@pytest.mark.parametrize(
    "text", ["#1", "~", "Null", "1e5", "0x1F", "yes", "2020-01-01", "a: b", "[x"]
)
@pytest.mark.parametrize("form", ["{0}\n{1}", "{0}={1}"])
def test_a_text_is_taken_as_typed_where_an_option_may_be_absent(text, form):
    for option, kind in (("name", str), ("run", Path)):
        words = form.format(f"--{option}", text).split("\n")
        _, _, values = cli.parse_command("sarcoma", "export", words, {})
        assert values[option] == kind(text)
    _, _, values = cli.parse_command("sarcoma", "export", ["--name", "null"], {})
    assert values.name is None


@pytest.mark.parametrize(
    ("line", "kind"), [("train_csv:", "Path"), ("seed: null", "int"), ("run: ~", "Path")]
)
def test_nothing_where_a_value_must_be_is_refused(tmp_path, line, kind):
    (tmp_path / "config.yaml").write_text(f"{line}\ndropout: 0.5\n")
    words = ["--config", str(tmp_path / "config.yaml")]
    option = line.partition(":")[0]
    with pytest.raises(OptionError, match=f"^option --{option}: found null; expected a {kind}$"):
        cli.parse_command("fetal_brain", "train", words, {})


def test_a_missing_option_is_named_as_it_is_typed():
    with pytest.raises(OptionError, match=r"^--tag is missing$"):
        cli.parse_command("raseg", "train", [], {})


def test_tuples_may_be_typed_without_brackets():
    def verb(window: tuple[int, int] = (1, 2), devices: str = ""):
        return window, devices

    words = ["--window", "3,4", "--patch_shape=3,16,16", "--devices", "0,1", "--dropout", "0.5"]
    expected = ["--window", "[3,4]", "--patch_shape=[3,16,16]", *words[3:]]
    assert cli.bracket_tuples(words, cli.types_of_options(verb, PORT.__class__)) == expected


def test_optional_tuples_may_be_typed_without_brackets():
    def verb(
        patch_shape: tuple[int, int, int] | None = None,
        spacing_mm: tuple[float, float] = (1.0, 1.0),
        levels: int | None = None,
    ):
        return patch_shape, spacing_mm, levels

    words = ["--patch_shape", "16,16,4", "--spacing_mm=2,2.2", "--patch_shape", "null"]
    expected = ["--patch_shape", "[16,16,4]", "--spacing_mm=[2,2.2]", *words[3:]]
    types = cli.types_of_options(verb, PORT.__class__)
    assert cli.bracket_tuples([*words, "--levels", "3,4"], types) == [
        *expected, "--levels", "3,4",
    ]  # fmt: skip


def test_an_option_of_the_command_counts_before_a_field_of_the_same_name():
    """`spacing_mm` of the vertebra phantom is a tuple, that of its `Config` a number."""
    _, _, values = cli.parse_command(
        "vertebra", "phantom", ["--out", "p", "--spacing_mm", "2,2,2.2"], {}
    )
    assert values.spacing_mm == (2.0, 2.0, 2.2)


def test_a_command_is_parsed_without_being_run(tmp_path):
    out = tmp_path / "phantom"
    _, _, values = cli.parse_command("fetal_brain", "phantom", ["--out", str(out)], {})
    assert values.cases == 10
    assert not out.exists()
    _, config, values = cli.parse_command(
        "raseg", "train", ["--tag", "t", "--preset", "draft", "--patch_shape", "16,16,4"], {}
    )
    assert cli.make_config(config, values).patch_shape == (16, 16, 4)
    with pytest.raises(OptionError, match="--colour"):
        cli.parse_command("raseg", "train", ["--tag", "t", "--colour", "red"], {})


def test_a_flag_may_stand_alone():
    def verb(overwrite: bool = False, name: str = ""):
        return overwrite, name

    types = cli.types_of_options(verb, Workers)
    words = ["--overwrite", "--name", "x"]
    assert cli.complete_flags(words, types) == ["--overwrite", "true", "--name", "x"]
    assert cli.complete_flags(["--overwrite", "false"], types) == ["--overwrite", "false"]
    assert cli.complete_flags(["--overwrite"], types) == ["--overwrite", "true"]


def test_a_second_run_is_an_ensemble():
    words = ["--run", "a", "--out", "o", "--run", "b", "--run", "c d"]
    assert cli.name_ensemble(words) == ["--run", "a", "--out", "o", '--ensemble=["b", "c d"]']
    assert cli.name_ensemble(words[:4]) == words[:4]
    _, _, values = cli.parse_command("fetal_brain", "predict", [*words, "--flips", "x"], {})
    assert (str(values.run), values.ensemble, values.flips) == ("a", ("b", "c d"), ("x",))


def test_preset_of_a_file_that_is_no_mapping(tmp_path):
    broken = tmp_path / "config.yaml"
    broken.write_text("- 1\n")
    with pytest.raises(OptionError, match=r"config\.yaml holds no options"):
        cli.preset_of_file(broken, "port")
    broken.write_text("a: [")
    with pytest.raises(OptionError, match="is not YAML"):
        cli.preset_of_file(broken, "port")
    broken.write_text("preset: [port]")
    assert cli.preset_of_file(broken, "code") == "code"
    broken.write_text("a: &a [x, x]\nb: &b [*a, *a]\npreset: [*b, *b]\n")  # 9 such lines: 1 GB
    with pytest.raises(OptionError) as refusal:
        cli.preset_of_file(broken, "port")
    assert str(refusal.value) == (
        f"--config: {broken} cannot be read: found an alias (*name); expected every value spelt out"
    )


def test_a_command_can_be_done_twice_in_one_process(tmp_path):
    size = ["--cases", 1, "--shape", "3,64,64", "--out"]
    done = run("phantom", *size, tmp_path / "a", "--", *size, tmp_path / "b", "--seed", "-1")
    assert done.returncode == 2
    assert "--seed: found -1" in done.stderr
    assert (tmp_path / "a" / "phantom.csv").is_file()
    done = run("phantom", *size, tmp_path / "c", "--", *size, tmp_path / "d", "--colour", "red")
    assert done.returncode == 2
    assert "--colour" in done.stderr
    assert not (tmp_path / "c").exists()
    assert run("phantom", *size, tmp_path / "c", "--", *size, tmp_path / "d").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c", "d"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("fetal_brain compare", "presets"),
        ("fetal_brain --help", "usage: python -m fetal_brain COMMAND [options]"),
        ("common --help", "usage: python -m common COMMAND [options]"),
    ],
)
def test_output_cut_short_by_its_reader_is_no_error(words, first):
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m {words} | head -1",
        shell=True, executable="/bin/bash", env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"{first}\n"
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_terminal_of_ascii_alone_gets_replaced_characters():
    """`±` ended `evaluate` with a UnicodeEncodeError."""
    code = "from common.cli import run_guarded; run_guarded('x', lambda: print('0.9 ± 0.1'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0.9 ? 0.1\n", "")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trian"], "unknown command 'trian', did you mean train?; expected one of"),
        (["train", "--batchsize", "3"], "arguments: --batchsize, did you mean --batch_size? 3"),
    ],
)
def test_the_nearest_known_word_is_suggested(words, hint, capsys):
    assert cli.main("fetal_brain", argv=words) == 2
    assert hint in capsys.readouterr().err
