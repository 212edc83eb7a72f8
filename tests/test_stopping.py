"""The first signal lets a program put things down in order, the second ends it at once."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import time
from readqg.stopping import Stopped, stoppable
try:
    with stoppable():
        try:
            print("begun", flush=True)
            for _ in range(600):  # a signal that comes just before a sleep does not cut it short
                time.sleep(0.1)
        finally:
            print("cleaning", flush=True)
            for _ in range(round(10 * {cleaning_s})):
                time.sleep(0.1)
            print("clean", flush=True)
except Stopped as stop:
    raise SystemExit(stop.exit_code)
"""

WAITS_IN_RAY = """
import ray
from readqg.stopping import Stopped, stoppable
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

@ray.remote
class Event:
    async def never(self):
        import asyncio
        await asyncio.Event().wait()

try:
    with stoppable():
        waited = Event.remote().never.remote()
        print("begun", flush=True)
        ray.wait([waited])
except Stopped as stop:
    raise SystemExit(stop.exit_code)
"""

WAITS_BESIDE_POLARS = """
import queue
{before}
from readqg.stopping import Stopped, stoppable
try:
    with stoppable():
        {after}
        print("begun", flush=True)
        queue.Queue().get()
except Stopped as stop:
    raise SystemExit(stop.exit_code)
"""


def begun(cleaning_s):
    return started(PROGRAM.format(cleaning_s=cleaning_s))


def started(text):
    program = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "begun\n"
    return program


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_ends_in_order(number, code):
    program = begun(cleaning_s=0.1)
    program.send_signal(number)
    said, complained = program.communicate(timeout=30)
    assert (said, complained, program.returncode) == ("cleaning\nclean\n", "", code)


def test_a_second_signal_ends_at_once():
    program = begun(cleaning_s=60)
    program.send_signal(signal.SIGINT)
    assert program.stdout.readline() == "cleaning\n"
    program.send_signal(signal.SIGINT)
    said, complained = program.communicate(timeout=30)
    assert (said, complained, program.returncode) == ("", "", 130)


@pytest.mark.slow
def test_a_signal_in_a_wait_of_ray_is_the_same():
    """Ray turns whatever a handler raises in its waits into a `KeyboardInterrupt` of its own."""
    program = started(WAITS_IN_RAY)
    time.sleep(1)  # to be in the wait
    program.send_signal(signal.SIGTERM)
    assert program.wait(timeout=30) == 143
    assert "Traceback" not in program.stderr.read()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_ends_a_wait_where_polars_is_imported(when):
    """Ray Data waits so for the next shard. Of itself, polars' import has such a wait go on."""
    program = started(WAITS_BESIDE_POLARS.format(**{"before": "", "after": "", when: "from readqg.frames import pl"}))
    time.sleep(1)  # to be in the wait
    program.send_signal(signal.SIGINT)
    assert program.wait(timeout=30) == 130
    assert "Traceback" not in program.stderr.read()
