"""Progress is shown on a terminal, and nothing anywhere else."""

import io
import sys

from reason_rl.live_line import live_line


class Terminal(io.StringIO):
    """Takes what is written and says that it is a terminal."""

    def isatty(self):
        return True


def test_a_terminal_sees_how_far_it_is(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with live_line("gsm8k") as on_progress:
        on_progress(3, 80)
        on_progress(80, 80)
    assert "gsm8k" in terminal.getvalue()
    assert "80/80" in terminal.getvalue()


def test_a_file_sees_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with live_line("gsm8k") as on_progress:
        assert on_progress is None
    assert sys.stderr.getvalue() == ""
