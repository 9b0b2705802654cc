"""Where progress is said: not to a file at every step, and not by workers."""

import multiprocessing

import pytest

from common.inference import command
from common.inference.command import Shown


def say_two():
    shown = Shown()
    shown("one")
    shown("two")
    shown.end()


@pytest.mark.parametrize(("every_s", "said"), [(0, "one\ntwo\n"), (1000, "")])
def test_a_file_gets_a_line_when_it_is_time(monkeypatch, capsys, every_s, said):
    monkeypatch.setattr(command, "SAY_EVERY_S", every_s)
    say_two()
    assert capsys.readouterr().err == said


def test_a_terminal_has_the_last_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    say_two()
    assert capsys.readouterr().err == "\rone\x1b[K\rtwo\x1b[K\n"


def test_a_worker_says_nothing(monkeypatch, capfd):
    monkeypatch.setattr(command, "SAY_EVERY_S", 0)
    worker = multiprocessing.get_context("fork").Process(target=say_two)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert capfd.readouterr().err == ""
