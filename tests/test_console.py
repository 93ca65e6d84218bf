"""Bars on a terminal, nothing elsewhere."""

import io
import sys
from pathlib import Path

import pytest

from bitplan.console import LABELS, Bars

ROOT = Path(__file__).parents[1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_stages(bars: Bars) -> None:
    with bars:
        for stage in ("load", "evaluate", "evaluate", "a new stage"):
            bars(stage, 0, 3)
            bars(stage, 2, 3)
            bars("refine", 1, 9)  # one stage within another
            bars(stage, 3, 3)
        bars("apply", 0, 0)
        bars("refine", 9, 9)
        bars("refine", 9, 9)


def test_bars_are_drawn_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    run_stages(Bars())
    drawn = terminal.getvalue()
    assert "Loading the model" in drawn
    assert "A new stage" in drawn


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_nothing_is_drawn_elsewhere_or_for_machines(stream, monkeypatch, capsys):
    place = stream()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", place)
    run_stages(Bars(hidden=stream is Terminal))
    assert place.getvalue() == ""
    assert capsys.readouterr().out == ""


def test_an_error_within_ends_the_bars(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    bars = Bars()

    def be_interrupted() -> None:
        with bars:
            bars("load", 0, 3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    with bars:  # they can be drawn again
        bars("load", 3, 3)


def test_every_stage_has_a_label():
    sources = [
        path
        for folder in ("bitplan", "sensitivity", "allocator")
        for path in (ROOT / folder).rglob("*.py")
    ]
    text = "\n".join(path.read_text() for path in sources)
    for stage in LABELS:
        assert f'"{stage}"' in text
