"""The training loop on a real Ray Train and DeepSpeed."""

import json

import pytest

from readqg.engine import train
from readqg.errors import RunError
from readqg.shards import verify
from tests.engine.toys import Line, LineConfig

pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "out"
    train.run(Line(), LineConfig(out=str(out)))
    return out


def test_training_learns_and_keeps_the_best_weights(unbroken):
    log = json.loads((unbroken / "log.json").read_text())
    scores = [line["validation"]["score"] for line in log if "validation" in line]
    assert scores[-1] > scores[0] + 1
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 31))
    assert verify(unbroken) == []
    assert (unbroken / "_train").stat().st_mode & 0o777 == 0o700


def test_a_killed_worker_goes_on_from_its_checkpoint_to_the_same_weights(unbroken, tmp_path):
    (tmp_path / "marks").mkdir()
    train.run(Line(deadly=17, marks=str(tmp_path / "marks")), LineConfig(out=str(tmp_path / "out")))
    assert (tmp_path / "marks" / "death").exists()
    assert (tmp_path / "out" / "line.safetensors").read_bytes() == (unbroken / "line.safetensors").read_bytes()
    log = json.loads((tmp_path / "out" / "log.json").read_text())
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 31)), "each step is logged once"


def test_a_loss_that_is_not_a_number_stops_the_run_with_what_to_change(tmp_path):
    with pytest.raises(RunError, match=r"collapsed at step 4: the loss is nan.*learning-rate"):
        train.run(Line(steps=8, broken=4), LineConfig(out=str(tmp_path / "out")))
    assert not (tmp_path / "out" / "_SUCCESS").exists()
