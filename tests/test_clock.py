"""Seconds that work took, over interrupted runs and looks at what is done."""

import time

import pytest

from readqg.clock import Clock


def test_interrupted_work_adds_up_and_a_look_at_what_is_done_adds_nothing(tmp_path):
    path = tmp_path / "_seconds.json"
    with pytest.raises(KeyboardInterrupt), Clock(path).stage("rank"):
        time.sleep(0.11)
        raise KeyboardInterrupt
    first = Clock(path).seconds["rank"]
    with Clock(path).stage("rank"):
        time.sleep(0.11)
    done = Clock(path).seconds["rank"]
    assert done > first > 0
    with Clock(path).stage("rank"):
        time.sleep(0.11)
    assert Clock(path).seconds == {"rank": done}


def test_work_that_is_done_again_adds_up_too(tmp_path):
    for _ in range(2):
        with Clock(tmp_path / "_seconds.json").stage("search", again=True):
            time.sleep(0.11)
    assert Clock(tmp_path / "_seconds.json").seconds["search"] >= 0.2
