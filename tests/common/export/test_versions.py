"""The folder that a server watches: versions and the files that configure it."""

import pytest

from common.errors import OptionError, RunError
from common.export.versions import (
    BATCHING,
    MODELS_CONFIG,
    find_models,
    find_versions,
    next_version,
    version_folder,
    write_server_files,
)


def test_versions_are_counted_as_numbers(tmp_path):
    for name in ("9", "10", "not_a_version", "-3"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == 11
    assert next_version(tmp_path / "absent") == 1


def test_folder_of_a_version(tmp_path):
    """The next number after the largest, the number asked for, never one below 1 or taken."""
    assert version_folder(tmp_path, "model", None) == tmp_path / "model" / "1"
    (tmp_path / "model" / "9").mkdir(parents=True)
    (tmp_path / "model" / "10").mkdir()
    assert version_folder(tmp_path, "model", None) == tmp_path / "model" / "11"
    assert version_folder(tmp_path, "model", 4) == tmp_path / "model" / "4"
    with pytest.raises(OptionError, match="--version: found 0"):
        version_folder(tmp_path, "model", 0)
    with pytest.raises(OptionError, match=r"9 exists already; expected a new folder"):
        version_folder(tmp_path, "model", 9)


@pytest.mark.parametrize(
    "name", ["", ".hidden", "a/b", "a b", 'a"b', "a\n", "my:model", "a?b#c", "ünï", "m" * 129]
)
def test_a_name_that_is_no_folders(tmp_path, name):
    with pytest.raises(OptionError, match="--name: found "):
        version_folder(tmp_path, name, None)


def test_server_files_name_the_models_that_are_whole(tmp_path):
    for path in ("net/1", "net/2", "other/1", "unfinished/1", "net/.3.77.tmp", "notes/old"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("net/1", "net/2", "other/1", "net/.3.77.tmp", "notes/old"):
        (tmp_path / path / "saved_model.pb").touch()
    assert find_models(tmp_path) == ["net", "other"]
    write_server_files(tmp_path)
    lines = (tmp_path / MODELS_CONFIG).read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "model_config_list {",
        "  config {",
        '    name: "net"',
        '    base_path: "/models/net"',
        '    model_platform: "tensorflow"',
        "  }",
        "  config {",
        '    name: "other"',
        '    base_path: "/models/other"',
        '    model_platform: "tensorflow"',
        "  }",
        "}",
    ]
    assert "leave --enable_batching off" in (tmp_path / BATCHING).read_text()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"models.config cannot be written: Not a directory"):
        write_server_files(tmp_path / "file")


def test_folders_that_are_numbers_elsewhere_are_no_versions(tmp_path):
    """int("²") ended every later export with a traceback."""
    for name in ("²", "٣", "1", "x"):
        (tmp_path / "model" / name).mkdir(parents=True)
        (tmp_path / "model" / name / "saved_model.pb").touch()
    assert find_versions(tmp_path / "model") == [1]
    assert find_models(tmp_path) == ["model"]
    assert version_folder(tmp_path, "model", None).name == "2"


@pytest.mark.parametrize("place", ["models [1]", "a*", "b?/c"])
def test_paths_that_tensorflow_takes_for_patterns_are_refused(tmp_path, place):
    """It wrote such a folder, found nothing in it, and ended in a traceback."""
    with pytest.raises(OptionError, match=r"--to: .* no saved model; expected a path without"):
        version_folder(tmp_path / place, "model", None)
    assert not list(tmp_path.iterdir())
