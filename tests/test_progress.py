"""What long work says while it runs, and what is left of it after Ctrl-C."""

import io
from types import SimpleNamespace

import pytest

import autodual as ad
from autodual import progress as switch
from autodual.working import Report, duration, track, working


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in the place of stderr, and no patience."""
    monkeypatch.setattr("autodual.working.PATIENCE", 0.0)
    monkeypatch.setattr("autodual.working.EVERY", 0.0)
    screen = Terminal()
    monkeypatch.setattr("autodual.working.sys", SimpleNamespace(stderr=screen))
    return screen


@pytest.fixture
def reports(terminal):
    """All that is said, as a list."""
    said: list[Report] = []
    with ad.progress(said.append):
        yield said


def test_a_terminal_shows_one_line_and_it_is_wiped_out(terminal):
    assert list(track("abcd", "reading")) == list("abcd")
    shown = terminal.getvalue()
    assert "\rreading: 0 %" in shown
    assert "\rreading: 75 %, about" in shown
    assert "\n" not in shown
    *_, blank, last = shown.split("\r")
    assert not blank.strip()
    assert not last


def test_short_work_says_nothing(terminal, monkeypatch):
    monkeypatch.setattr("autodual.working.PATIENCE", 60.0)
    list(track("ab", "reading"))
    assert terminal.getvalue() == ""
    with working("long", 1, forecast=121.0):
        pass
    assert "about 2 min left" in terminal.getvalue()


def test_nothing_is_said_where_nobody_reads(terminal, monkeypatch):
    with ad.progress(False):
        list(track("ab", "reading"))
    assert terminal.getvalue() == ""
    file = io.StringIO()
    monkeypatch.setattr("autodual.working.sys", SimpleNamespace(stderr=file))
    list(track("ab", "reading"))
    assert file.getvalue() == ""
    with ad.progress(True):
        list(track("ab", "reading"))
    assert "reading" in file.getvalue()
    monkeypatch.setattr("autodual.working.sys", SimpleNamespace(stderr=None))
    with ad.progress(True):
        list(track("ab", "reading"))


def test_the_switch_also_works_without_a_block(terminal):
    with ad.progress(None):
        switch(False)
        list(track("ab", "reading"))
        assert terminal.getvalue() == ""
    list(track("ab", "reading"))
    assert terminal.getvalue() != ""


def test_work_inside_other_work_moves_on_its_line(reports):
    for _ in track("ab", "outer"):
        with working("inner", 10) as bar:
            bar.advance(5)
    assert {report.what for report in reports} == {"outer"}
    shares = [report.share for report in reports]
    assert shares == sorted(shares)
    assert {0.25, 0.5, 0.75, 1.0} <= set(shares)
    assert [report.over for report in reports[-2:]] == [False, True]


def test_a_line_ends_where_its_work_breaks_off(reports):
    with pytest.raises(KeyError), working("work", 2):
        raise KeyError
    for _ in track("abc", "again"):
        break
    assert [report.what for report in reports if report.over] == ["work", "again"]
    list(track("a", "after"))
    assert reports[-1].what == "after"


def test_time_left_is_by_the_forecast_first_and_then_by_what_was_measured(monkeypatch, reports):
    now = 0.0
    monkeypatch.setattr("autodual.working.time.perf_counter", lambda: now)
    with working("work", 100, forecast=50.0) as bar:
        now = 10.0
        bar.advance(1)
        now = 20.0
        bar.advance(9)
    with working("other", 100) as bar:
        pass
    assert [report.left for report in reports[:3]] == [50.0, 40.0, 180.0]
    assert reports[-2].left is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.1 s"), (7.4, "7 s"), (89, "89 s"), (240, "4 min"), (7300, "2 h")],
)
def test_times_are_told_as_roughly_as_they_are_known(seconds, text):
    assert duration(seconds) == text


def test_an_interrupt_is_one_and_brings_what_was_found():
    with pytest.raises(KeyboardInterrupt) as caught:
        raise ad.errors.Interrupted([1, 2], "2 of 3 examples are done")
    assert caught.value.partial == [1, 2]
    assert "2 of 3" in str(caught.value)
