"""`python -m <paper> <command>`: one command line for every paper, made from typed functions.

A command is a module of the paper with a function of the same name; the function's signature is the
command line, its docstring the help. A parameter `config` of the paper's `Config` type opens every
field of it as an option, with the values of `--preset` as defaults; `--config FILE` replays a saved
run's `config.yaml`. So do the parameters of `OPENED`. Verbs that are the same for every paper are
modules of `common` whose function takes the paper's name first. After `--` one process does the
command again, with other options.

Nothing here imports TensorFlow, so that help is quick; jsonargparse is imported where it is used,
since `bench-gpu` runs where keras and jax alone are installed.
"""

import argparse
import ast
import errno
import importlib
import inspect
import json
import os
import re
import signal
import sys
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from common.errors import OptionError, RunError, UserError, nearest
from common.runtime import forget_networks, limit_threads, load_tensorflow_quietly

COMMANDS = ("phantom", "prepare", "plan", "train", "predict", "evaluate", "export", "convert",
         "calibrate", "compare", "reproduce", "bench")  # fmt: skip
"""The same commands everywhere, in the order of the work; a paper has those it has a module for."""

SHARED_COMMANDS = {
    "plan": ("common.cost.plan", "workload.py"),
    "export": ("common.export.command", "serving.py"),
}
"""Verbs that exist once: their module, and the file of a paper that they work from."""

OPENED = ("extras", "on")
"""Parameters whose dataclass has options of its own: what is done beyond the paper, and by whom."""

COMMANDS_ON_TENSORFLOW = {
    "plan", "train", "predict", "export", "convert", "calibrate", "compare", "bench",
}  # fmt: skip
"""The others answer without its two seconds of start-up."""

USER_ERRNOS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip
"""Refusals of the operating system that a user can mend."""


def main(
    paper: str,
    *,
    argv: Sequence[str] | None = None,
    command_aliases: Mapping[str, str] | None = None,
    option_aliases: Mapping[str, str] | None = None,
) -> int:
    """Run one command of a paper.

    Args:
        paper: package name, such as "fetal_brain".
        argv: words after the program's name; None: those of this process.
        command_aliases: the original's script names and the commands that answer to them.
        option_aliases: the original's option names and ours, such as {"-p": "--run"}.

    Returns:
        Exit status: 0, or 2 after a mistake of the user's, which is one line on stderr.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    aliases = command_aliases or {}
    command = aliases.get(words[0], words[0]) if words else ""

    def act() -> int:
        available = find_commands(paper)
        if not words or words[0] in ("-h", "--help"):
            print(describe_paper(paper, available, aliases), flush=True)
            return 0 if words else 2
        if command not in available:
            raise unknown_command(words[0], [*available, *aliases])
        run_command(paper, command, words[1:], option_aliases or {})
        return 0

    return run_guarded(f"{paper} {command}", act)


def unknown_command(word: str, known: Sequence[str]) -> OptionError:
    """Return the refusal of a word that is none of the known commands."""
    return OptionError(
        f"unknown command {word!r}{_hint(word, known)}; expected one of: {', '.join(known)}"
    )


def _hint(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return near and f", did you mean {near}?"


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, whose refusals are one line; options may have hyphens."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> None:
        """Raise the refusal instead of printing the usage."""
        raise OptionError(f"{message}; see `{self.prog} --help`")


def run_guarded(program: str, act: Callable[[], int | None]) -> int:
    """Run a command; what the user can mend becomes one line on stderr that begins with `program`.

    Returns:
        Exit status: that of the command (None is 0), 2 after a mistake of the user's, 1 where some
        cases of a cohort failed, 130 after Ctrl-C. SIGTERM ends the process with 143, after all
        that is unfinished was put away.
    """

    def end(*_: Any) -> None:
        print(f"{program}: terminated", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal or file that knows ASCII alone
            stream.reconfigure(errors="replace")
    try:
        return act() or 0
    except UserError as mistake:
        refuse(program, str(mistake))
        return mistake.exit_status
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as refusal:
        if refusal.errno not in USER_ERRNOS:
            raise
        what = f"{refusal.filename}: " if refusal.filename else ""
        return refuse(program, f"{what}{refusal.strerror}")
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130


def refuse(program: str, message: str) -> int:
    """Print a mistake as one line on stderr and return its exit status."""
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def find_commands(paper: str) -> dict[str, Path]:
    """Return the commands of a paper and the files of their modules, in the order of the work."""
    folder = Path(importlib.import_module(paper).__file__).parent
    found = {}
    for command in COMMANDS:
        module, needed = SHARED_COMMANDS.get(command, (f"{paper}.{command}", f"{command}.py"))
        if (folder / needed).is_file():
            found[command] = folder.parent.joinpath(*module.split(".")).with_suffix(".py")
    return found


def describe_paper(paper: str, available: Mapping[str, Path], aliases: Mapping[str, str]) -> str:
    """Return the help of a paper, a line per command; reads the modules without running them."""
    lines = [f"usage: python -m {paper} COMMAND [options]", "", "commands:"]
    for command, module in available.items():
        docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {command:<10} {docstring.partition(chr(10))[0]}")
    for alias, command in aliases.items():
        lines.append(f"  {alias:<10} the original's name of `{command}`")
    return "\n".join([*lines, "", f"Options of a command: python -m {paper} COMMAND --help"])


def run_command(
    paper: str, command: str, words: Sequence[str], option_aliases: Mapping[str, str]
) -> None:
    """Parse the words of one command and call its function, once for every part between `--`."""
    if command == "predict" and is_for_a_model(paper, words):
        raise SystemExit(
            importlib.import_module("common.serving.__main__").main(["segment", *words])
        )
    parts = map(split_output, split_words(words))
    calls = [
        (*parse_command(paper, command, part, option_aliases), output) for part, output in parts
    ]
    for number, (function, config_class, values, output) in enumerate(calls):
        if values.cuda_devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = values.cuda_devices
        if values.threads is not None:
            limit_threads(values.threads)
        if command in COMMANDS_ON_TENSORFLOW and not is_shared(values):
            if not values.verbose:
                load_tensorflow_quietly()
            if number:
                forget_networks()
        arguments = gather_arguments(paper, function, config_class, values)
        if output is None:
            function(**arguments)
        else:
            predict_into(paper, function, arguments, output)


def is_shared(values: Any) -> bool:
    """Return whether others do the work: this process needs no TensorFlow then."""
    return any(values.get(name) is not None for name in ("workers", "scheduler"))


def is_for_a_model(paper: str, words: Sequence[str]) -> bool:
    """Return whether `predict` is asked of an exported model that the paper's own does not take."""
    return (
        any(word.partition("=")[0] == "--model" for word in words)
        and "model" not in inspect.signature(load_command(paper, "predict")).parameters
    )


def split_output(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """Take the file of `-o FILE` out of the words of a command."""
    words = list(words)
    if "-o" not in words:
        return words, None
    place = words.index("-o")
    if not words[place + 1 :] or words[place + 1].startswith("-"):
        raise OptionError("-o: expected the file of labels to write")
    output = Path(words[place + 1])
    del words[place : place + 2]
    return words, output


def predict_into(paper: str, function: Callable, arguments: dict, output: Path) -> None:
    """Call a paper's `predict` for one scan and put its labels into a file."""
    folder = next((name for name in ("out", "output_dir") if name in arguments), None)
    if folder is None or arguments.get("image") is None:
        raise OptionError(f"-o {output}: expected one scan, as in predict SCAN -o LABELS.nii.gz")
    if arguments[folder] is not None:
        raise OptionError(f"-o {output} and --{folder} were both given; expected one of them")
    one_scan = importlib.import_module("common.inference.one_scan")  # above this in the house
    one_scan.predict_one(
        lambda made: function(**{**arguments, folder: made}), arguments["image"], output,
        paper=paper,
    )  # fmt: skip


def split_words(words: Sequence[str]) -> list[list[str]]:
    """Divide words at `--`."""
    parts = [[]]
    for word in words:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def gather_arguments(paper: str, function: Callable, config_class: type, values: Any) -> dict:
    """Return the arguments of a command's function by name."""
    names = inspect.signature(function).parameters
    given = {"paper": paper}
    if "config" in names:
        given["config"] = make_config(config_class, values)
    for name in {*OPENED} & {*names}:
        given[name] = make_config(names[name].annotation, values)
    if "image" in names:
        given["image"] = values.image
        if values.series is not None:
            paths = importlib.import_module("common.data.dicom_paths")
            given["image"] = paths.choose_series(values.image, values.series)
    weights = values.get("weights")
    if function.__name__ == "predict" and weights is not None and weights.suffix == ".keras":
        found = importlib.import_module("common.runs.weights")
        run = found.run_of_weights(paper, weights, values.get("preset"))
        given |= {"run": run, "weights": None}
    return {name: given[name] if name in given else values[name] for name in names}


def load_command(paper: str, command: str) -> Callable:
    """Return the function of a command, the paper's own or the shared one."""
    module, _ = SHARED_COMMANDS.get(command, (f"{paper}.{command}", ""))
    return getattr(importlib.import_module(module), command)


def parse_command(
    paper: str, command: str, words: Sequence[str], option_aliases: Mapping[str, str]
) -> tuple[Callable, type, Any]:
    """Return a command's function, the paper's `Config` class and the values by option.

    A first word that is no option is the scan of a command that has one.
    """
    function = load_command(paper, command)
    config_module = importlib.import_module(f"{paper}.config")
    parameters = inspect.signature(function).parameters
    if words and not words[0].startswith("-") and "image" in parameters:
        words = ["--image", *words]
    words = spell_options(words, option_aliases)
    if "extras" in parameters:
        words = name_ensemble(words)
    try:
        parser = build_parser(f"python -m {paper} {command}", function, config_module, words)
        types = types_of_options(function, config_module.Config)
        words = bracket_tuples(complete_flags(words, types), types)
        values = parser.parse_args(words)
        keep_texts(values, words, types)
        refuse_nulls(values, types)
    except argparse.ArgumentError as mistake:
        message = plain_message(str(mistake))
        if unknown := re.match("unrecognized arguments: (--[^ =]+)", message):
            hint = _hint(unknown[1], _long_options(parser))
            message = message.replace(unknown[1], unknown[1] + hint, 1)
        raise OptionError(message) from None
    return function, config_module.Config, values


def _long_options(parser: argparse.ArgumentParser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings if "--" in name]


def spell_options(words: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """Translate the original's option names, and hyphens within long names, into ours."""
    spelled = []
    for word in words:
        name, equals, value = word.partition("=")
        name = aliases.get(name, name)
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
        spelled.append(name + equals + value if word.startswith("-") else word)
    return spelled


def name_ensemble(words: Sequence[str]) -> list[str]:
    """Let `--run A --run B` mean an ensemble, of which A is the first."""
    places = [n for n, word in enumerate(words) if word == "--run" and words[n + 1 : n + 2]]
    if len(places) < 2:
        return list(words)
    left_out = {place + part for place in places[1:] for part in (0, 1)}
    kept = [word for n, word in enumerate(words) if n not in left_out]
    return [*kept, f"--ensemble={json.dumps([words[place + 1] for place in places[1:]])}"]


def complete_flags(words: Sequence[str], types: Mapping[str, tuple]) -> list[str]:
    """Let a yes/no option stand alone: `--overwrite` means `--overwrite true`."""
    yes_no = {"--verbose", *(name for name, kind in types.items() if bool in kind)}
    completed = []
    for position, word in enumerate(words):
        completed.append(word)
        following = words[position + 1] if position + 1 < len(words) else "--"
        if word in yes_no and following.startswith("-"):
            completed.append("true")
    return completed


def types_of_options(function: Callable, config_class: type) -> dict[str, tuple]:
    """Return, for every option of a command, its type and the types within that."""
    # A command without `config` may have an option that is called like a field of it.
    own = typing.get_type_hints(function)
    hints = typing.get_type_hints(config_class) | own
    for name in {*OPENED} & {*own}:
        hints |= typing.get_type_hints(own[name])
    given = {"config", "paper", "return", *OPENED}  # by `gather_arguments`
    return {f"--{n}": (hint, *typing.get_args(hint)) for n, hint in hints.items() if n not in given}


def bracket_tuples(words: Sequence[str], types: Mapping[str, tuple]) -> list[str]:
    """Let a tuple be typed plainly: `--window 3,64,64` is `[3,64,64]`, `--ids 001,b` `["001","b"]`.

    Texts are quoted, since the parser reads YAML, where 001 is a number.
    """
    bracketed = []
    for name, value, word in _values_of_options(words):
        kind, listed = types.get(name, ()), value
        if tuple[str, ...] in kind:
            plain = re.fullmatch(r"\[[^\[\]{}\"']*\]|\w[\w.-]*(,\w[\w.-]*)*", value)
            if plain and value != "null":
                items = value.strip("[]").split(",")
                listed = json.dumps([item.strip() for item in items if item], ensure_ascii=False)
        elif tuple in map(typing.get_origin, kind):
            if re.fullmatch(r"\d[\d.]*(,\d[\d.]*)+", value):
                listed = f"[{value}]"
        bracketed.append(word.removesuffix(value) + listed)
    return bracketed


def keep_texts(values: Any, words: Sequence[str], types: Mapping[str, tuple]) -> None:
    """Give options the texts that YAML reads as nothing, such as `#1`; only `null` is none."""
    for name, value, _ in _values_of_options(words):
        kind = types.get(name, ())
        if type(None) in kind and value not in ("", "null") and values[name[2:]] is None:
            values[name[2:]] = Path(value) if Path in kind else value


def refuse_nulls(values: Any, types: Mapping[str, tuple]) -> None:
    """Raise `OptionError` for nothing where a value must be, which the parser takes from a file."""
    for name, (kind, *inner) in types.items():
        if type(None) not in inner and name[2:] in values and values[name[2:]] is None:
            wanted = getattr(kind, "__name__", str(kind))
            raise OptionError(f"option {name}: found null; expected a {wanted}")


def _values_of_options(words: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the option, the value and the word for each word; an option alone has no value."""
    option = ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else (option, "", word)
        yield name, value, word
        option = name if word.startswith("--") and not equals else ""


def build_parser(program: str, function: Callable, config_module: Any, words: Sequence[str]):
    """Return the parser of one command, its defaults taken from the preset that `words` name."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    description = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]
    # Abbreviations would let a misspelt option mean another one.
    parser = ArgumentParser(
        prog=program, exit_on_error=False, allow_abbrev=False, description=description
    )
    replay = "Replay a config.yaml; options after it win."
    parser.add_argument("--config", action="config", help=replay)
    parser.add_argument("--cuda_devices", type=str | None, help="The GPU to use, such as 0.")
    threads = "Threads within an operation; default: all cores, of a worker among others 1."
    parser.add_argument("--threads", type=int | None, help=threads)
    parser.add_argument("--verbose", type=bool, default=False, help="Show TensorFlow's notices.")
    parameters = inspect.signature(function).parameters
    if "image" in parameters:
        uid = "SeriesInstanceUID, where --image is a folder with several series of DICOM."
        parser.add_argument("--series", type=str | None, help=uid)
    if function.__name__ == "predict" and "weights" not in parameters:
        network = "A network file, .keras, to use instead of a run."
        parser.add_argument("--weights", type=Path | None, help=network)
    skip = {"config", "paper", *OPENED} & {*parameters}
    if {"paper", "preset"} <= {*parameters}:  # the command is shared, the presets are the paper's
        skip.add("preset")
        parser.add_argument(
            "--preset", type=config_module.Preset, default=parameters["preset"].default,
            help="Where the numbers come from; options after it change single ones.",
        )  # fmt: skip
    parser.add_function_arguments(
        function, as_group=False, as_positional=False, skip=skip, fail_untyped=True
    )
    for name in [name for name in OPENED if name in parameters]:
        parser.add_class_arguments(parameters[name].annotation, as_group=True)
    if "config" in parameters:
        parser.add_class_arguments(config_module.Config, as_group=True)
        preset = find_preset(words, parser.get_default("preset"))
        if preset in config_module.PRESETS:  # another word is refused by its own option
            parser.set_defaults(asdict(config_module.PRESETS[preset]))
    return parser


def find_preset(words: Sequence[str], default: str) -> str:
    """Return the preset named by `--preset`, or by a replayed `--config` file, or the default."""
    chosen = default
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name not in ("--preset", "--config"):
            continue
        value = value if equals else "".join(words[position + 1 : position + 2])
        chosen = value if name == "--preset" else preset_of_file(Path(value), chosen)
    return chosen


def preset_of_file(path: Path, default: str) -> str:
    """Return the `preset` entry of a config.yaml, or the default where it has none."""
    from common.files import read_yaml  # needs YAML, which bench-gpu does without

    if not path.is_file():
        raise OptionError(f"--config: {path} is not a file; expected the config.yaml of a run")
    try:
        preset = read_yaml(path).get("preset", default)
    except RunError as mistake:
        raise OptionError(f"--config: {mistake}") from None
    return preset if isinstance(preset, str) else default  # its own option refuses another


def make_config(config_class: type, values: Any) -> Any:
    """Build the frozen `Config` from parsed options of the same names."""
    return config_class(**{field.name: values[field.name] for field in fields(config_class)})


def plain_message(message: str) -> str:
    """Turn the parser's words into one line that names the option as the user typed it."""
    message = " ".join(message.split())
    message = re.sub(r'Parser key "([^"]+)"(?: list item [^:]*)?:', r"option --\1:", message)
    message = re.sub(r"<class '(\w+)'>", r"\1", message)
    message = re.sub("the following arguments are required: (.+)", _missing, message)
    message = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", message)
    message = re.sub(r"Expected (a (?=one))?", "expected ", message)
    return message.replace("Got value:", "found:")


def _missing(found: re.Match) -> str:
    names = [f"--{name}" for name in found[1].split(", ")]
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
