"""Judgments are on the disk before they count, and what a kill cuts off never did."""

import copy
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg.comparing.judgments import FILE, Choice, End, Grade, Judgments, Shown, Undo
from readqg.errors import FolderError


def shown(query_id, left="a", a=("d1", "d2"), b=("d2", "d3")):
    return Shown(query_id=query_id, query=f"what is {query_id}", left=left, a=a, b=b)


def state(judgments):
    return judgments.shown, list(judgments.choices.items()), judgments.grades, judgments.ended


def test_sides_count_for_whoever_was_on_them(tmp_path):
    with Judgments(tmp_path) as judgments:
        said = [("q1", "a", "left"), ("q2", "b", "left"), ("q3", "b", "right"), ("q4", "a", "tie"), ("q5", "b", "skip")]
        for query_id, left, choice in said:
            judgments.add(shown(query_id, left))
            judgments.add(Choice(query_id=query_id, choice=choice))
        assert (judgments.wins("a"), judgments.wins("b"), judgments.count("tie"), judgments.count("skip")) == (2, 1, 1, 1)


def test_what_was_said_is_there_after_a_restart(tmp_path):
    with Judgments(tmp_path) as judgments:
        for query_id in ("q1", "q2"):
            judgments.add(shown(query_id))
        judgments.add(Choice(query_id="q1", choice="left"))
        judgments.add(Grade(query_id="q1", doc_id="d3", relevance=1))
        judgments.add(Grade(query_id="q1", doc_id="d1", relevance=0))
        judgments.add(Grade(query_id="q1", doc_id="d1", relevance=None))
        judgments.add(Choice(query_id="q1", choice="right"))
        before = state(judgments)
        assert before[1:3] == ([("q1", "right")], {"q1": {"d3": 1}})
        assert judgments.waiting == shown("q2").model_copy(update={"at": judgments.waiting.at})
    with Judgments(tmp_path) as again:
        assert state(again) == before
        again.add(Undo(query_id="q1"))
        assert again.choices == {}


EVENTS = st.lists(st.one_of(
    st.builds(shown, st.sampled_from("pqr"), st.sampled_from("ab")),
    st.builds(lambda q, c: Choice(query_id=q, choice=c), st.sampled_from("pqr"), st.sampled_from(["left", "right", "tie", "skip"])),
    st.builds(lambda q, d, r: Grade(query_id=q, doc_id=d, relevance=r),
              st.sampled_from("pqr"), st.sampled_from(["d1", "d3", "d9"]), st.sampled_from([0, 1, None])),
    st.builds(lambda q: Undo(query_id=q), st.sampled_from("pqr")),
), max_size=25)


@settings(deadline=None, max_examples=25)
@given(events=EVENTS, cut=st.integers(0, 10_000))
def test_cut_off_anywhere_the_whole_lines_before_it_count_and_no_others(tmp_path_factory, events, cut):
    folder = tmp_path_factory.mktemp("out")
    states = []
    with Judgments(folder) as judgments:
        states.append((0, copy.deepcopy(state(judgments))))
        for event in events:
            try:
                judgments.add(event)
            except ValueError:
                continue
            content = (folder / FILE).read_bytes()
            again = folder / f"copy-{len(states)}"
            again.mkdir()
            (again / FILE).write_bytes(content)
            with Judgments(again) as read:
                assert state(read) == state(judgments)
                states.append((len(content), state(read)))
    at = cut % (states[-1][0] + 1)
    with (folder / FILE).open("r+b") as file:
        file.truncate(at)
    expected = max((s for s in states if s[0] <= at), key=lambda s: s[0])
    with Judgments(folder) as judgments:
        assert state(judgments) == expected[1]
        assert (folder / FILE).stat().st_size == expected[0]
        if "p" not in judgments.shown:
            judgments.add(shown("p"))
    assert all(json.loads(line) for line in (folder / FILE).read_text().splitlines())


KILLED = """
import sys
from pathlib import Path
from readqg.comparing.judgments import Choice, Judgments, Shown
judgments = Judgments(Path(sys.argv[1]))
for number in range(10_000):
    judgments.add(Shown(query_id=str(number), query="q", left="a", a=("d1",), b=("d2",)))
    judgments.add(Choice(query_id=str(number), choice="left"))
    print(number, flush=True)
"""


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        said = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    acknowledged = sum(line.endswith("\n") for line in said)
    with Judgments(tmp_path) as judgments:
        assert acknowledged <= judgments.wins("a") <= acknowledged + 1


def test_two_at_once_are_refused(tmp_path):
    with Judgments(tmp_path), pytest.raises(FolderError, match="open in another"):
        Judgments(tmp_path)
    Judgments(tmp_path).__exit__()


@pytest.mark.parametrize(("line", "message"), [
    ('{"event": "choice", "query_id": "q1", "choice": "up"}', "choice"),
    ('{"event": "choice", "query_id": "q7", "choice": "left"}', "'q7' was not shown"),
    ("nonsense", "Invalid JSON"),
    ('{"event": "shown"}', "query_id"),
])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line, message):
    with Judgments(tmp_path) as judgments:
        judgments.add(shown("q1"))
    good = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(f"{good}{line}\n")
    with pytest.raises(FolderError, match=rf"judgments\.jsonl, line 2: .*{message}"):
        Judgments(tmp_path)
    assert (tmp_path / FILE).read_text() == f"{good}{line}\n"


@pytest.mark.parametrize("event", [
    Choice(query_id="q9", choice="left"), Undo(query_id="q1"), Grade(query_id="q1", doc_id="d9", relevance=1), shown("q1"),
    Choice(query_id="same", choice="left"),
])
def test_what_does_not_fit_is_refused_and_not_kept(tmp_path, event):
    with Judgments(tmp_path) as judgments:
        judgments.add(shown("q1"))
        judgments.add(shown("same", b=("d1", "d2")))
        size = (tmp_path / FILE).stat().st_size
        with pytest.raises(ValueError):
            judgments.add(event)
        assert (tmp_path / FILE).stat().st_size == size
        judgments.add(Choice(query_id="same", choice="tie"))


def test_nothing_follows_the_end(tmp_path):
    with Judgments(tmp_path) as judgments:
        judgments.add(shown("q1"))
        judgments.add(End())
        with pytest.raises(ValueError, match="ended"):
            judgments.add(Choice(query_id="q1", choice="left"))


def test_a_full_disk_leaves_no_half_line(tmp_path):
    """/dev/full would not do: it cannot be truncated. A limit on the size of files is a real refusal by the system."""
    program = """
import resource, signal, sys
from pathlib import Path
from readqg.comparing.judgments import Judgments, Shown
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
judgments = Judgments(Path(sys.argv[1]))
for number in range(100):
    judgments.add(Shown(query_id=str(number), query="q", left="a", a=("d1",), b=("d2",)))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and os.strerror(errno.EFBIG) in done.stderr
    content = Path(tmp_path, FILE).read_text()
    assert content.endswith("\n") and 800 < len(content) <= 1000
    with Judgments(tmp_path) as judgments:
        assert len(judgments.shown) == content.count("\n")
