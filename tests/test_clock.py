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
