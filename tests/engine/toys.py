"""Tiny stages whose behaviour tests can steer: they count, fail, or kill their worker when told to."""

import json
import os
import signal
import time
from pathlib import Path

import pyarrow as pa

from readqg.config import Compute, Settings, TrainSettings, TuneSettings
from readqg.errors import InputError
from readqg.stage import ShardStage
from readqg.training import TrainStage
from readqg.tuning.search import Rung, Search
from readqg.workers import ALONE


class SquaresConfig(Settings):
    out: str
    seed: int = 0
    compute: Compute = Compute()


class Squares(ShardStage):
    """`shards` shards of `rows` numbers, squared; `bad` raises, `deadly` kills its worker once (or `deaths` times), in `read`,
    `prepare` or `compute`; a shard is computed in `takes_s`."""

    name = "squares"
    schema = pa.schema([("doc_id", pa.string()), ("square", pa.int64()), ("error", pa.string())])
    key = ("doc_id",)

    def __init__(self, shards=6, rows=4, bad=(), deadly=None, deaths=1, marks=None, needs_model=True, deadly_in="compute",
                 takes_s=0.0):
        self.shards, self.rows, self.bad, self.deadly, self.deaths = shards, rows, set(bad), deadly, deaths
        self.marks, self.needs_model, self.deadly_in = marks, needs_model, deadly_in
        self.takes_s = takes_s
        self.loaded = False

    @property
    def total(self):
        return self.shards

    def inputs(self):
        return {"numbers": f"{self.shards}x{self.rows}"}

    def read(self, index):
        numbers = range(index * self.rows, (index + 1) * self.rows if index != 1 else self.rows)
        self._die("read", numbers)
        return pa.table({"doc_id": pa.array([f"d{n}" for n in numbers], pa.string()), "n": pa.array(numbers, pa.int64())})

    def prepare(self, table):
        self._die("prepare", table["n"].to_pylist())
        return table

    def load(self):
        self.loaded = True

    def compute(self, table):
        assert self.loaded
        numbers = table["n"].to_pylist()
        self._mark(numbers)
        time.sleep(self.takes_s)
        if self.bad & set(numbers):
            raise ValueError("a bad number")
        self._die("compute", numbers)
        return pa.table({"doc_id": table["doc_id"], "square": [n * n for n in numbers], "error": pa.nulls(len(numbers))})

    def _die(self, where, numbers):
        if where == self.deadly_in and self.deadly in numbers and self._deaths() < self.deaths:
            (Path(self.marks) / f"death-{self._deaths()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _mark(self, numbers):
        if self.marks and numbers:
            (Path(self.marks) / f"computed-{numbers[0]}-{os.getpid()}").touch()

    def _deaths(self):
        return len(list(Path(self.marks).glob("death-*")))


class Killed:
    """Of a training stage: `meet` kills its worker the first time that it comes to a batch of `deadly`, once the last checkpoint
    counts; `marks`/begun has the first batch of every attempt."""

    deadly = ()
    marks = None
    _begun = False

    def meet(self, number):
        if not self.marks:
            return
        if not self._begun:
            self._begun = True
            with (Path(self.marks) / "begun").open("a") as file:
                file.write(f"{number}\n")
        mark = Path(self.marks) / f"death-{number}"
        if number in self.deadly and not mark.exists():
            from ray import train

            train.get_all_reported_checkpoints(consistency_mode=train.CheckpointConsistencyMode.COMMITTED)
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def begun(marks):
    """The first batch of every attempt of a `Killed` stage."""
    return [int(line) for line in (Path(marks) / "begun").read_text().split()]


class LineConfig(Settings):
    out: str
    learning_rate: float = 1e-2
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    train: TrainSettings = TrainSettings(checkpoint_steps=5, validate_steps=10)
    compute: Compute = Compute()


class Line(Killed, TrainStage):
    """A small network with dropout learns a sum; `deadly` batches kill its worker once, `broken` gives NaN, `bursts` a gradient out of
    all measure, `flat` says that it has collapsed, one of two workers cannot use batch `unusable`."""

    name = "line"
    most_workers = 4

    def __init__(self, steps=30, deadly=(), broken=None, marks=None, dropout=0.3, flat=None, unusable=None, bursts=None):
        self.bursts = bursts
        self.steps, self.seed, self.deadly, self.broken, self.marks = steps, 3, deadly, broken, marks
        self.dropout, self.flat, self.unusable, self.prepared_by = dropout, flat, unusable, None

    def inputs(self):
        return {"line": "sum"}

    def prepare(self):
        self.prepared_by = os.getpid()

    def build(self):
        import torch

        return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(self.dropout), torch.nn.Linear(16, 1))

    def batch(self, number, workers=ALONE):
        import torch

        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(number))
        mine = slice(*workers.span(16))
        return number, x[mine], x.sum(1, keepdim=True)[mine]

    def loss(self, model, batch, workers=ALONE):
        step, x, y = batch
        self.meet(step)
        if step == self.unusable and workers.rank == workers.count - 1:
            raise InputError(f"documents: batch {step} cannot be used")
        model.train()
        loss = workers.gather((model(x) - y) ** 2).mean()
        return loss * {self.broken: float("nan"), self.bursts: 1e7}.get(step, 1.0), {}

    def validate(self, model, workers=ALONE):
        import torch

        model.eval()
        with torch.no_grad():
            _, x, y = self.batch(999_999)
            return {"score": -float(((model(x) - y) ** 2).mean())}

    def collapsed(self, start, now):
        return "its scores are all the same" if self.flat else None

    def save(self, model, folder, log):
        from safetensors.torch import save_file

        save_file(model.state_dict(), folder / "line.safetensors")
        (folder / "log.json").write_text(json.dumps(log))
        (folder / "processes.json").write_text(json.dumps({
            "prepared": self.prepared_by, "trained": os.getpid(), "arenas": os.environ.get("MALLOC_ARENA_MAX")}))


class Troubled(Squares):
    """Numbers that kill, stop or crowd their worker: `deadly` kills whoever sees it, `hanging` never returns the first time it is
    seen (`in_the_way`, a file, is removed a while after); the first `loading` workers are killed while they load, or hang with
    `load_hangs`; every row carries `row_bytes` of text."""

    schema = pa.schema([*Squares.schema, ("text", pa.string())])

    def __init__(self, hanging=None, loading=0, row_bytes=0, load_hangs=False, in_the_way=None, **kwargs):
        super().__init__(**kwargs)
        self.hanging, self.loading, self.row_bytes, self.load_hangs, self.in_the_way = hanging, loading, row_bytes, load_hangs, in_the_way

    def read(self, index):
        table = super().read(index)
        noise = [os.urandom(self.row_bytes // 2).hex() for _ in range(table.num_rows)]
        return table.append_column("text", pa.array(noise, pa.string()))

    def load(self):
        if len(list(Path(self.marks).glob("loading-*"))) < self.loading:
            (Path(self.marks) / f"loading-{os.getpid()}").touch()
            if self.load_hangs:
                time.sleep(3600)
            os.kill(os.getpid(), signal.SIGKILL)
        super().load()

    def compute(self, table):
        if self.hanging in table["n"].to_pylist() and not (Path(self.marks) / "hung").exists():
            (Path(self.marks) / "hung").touch()
            if self.in_the_way:
                time.sleep(4)
                os.unlink(self.in_the_way)
            time.sleep(3600)
        return super().compute(table).append_column("text", table["text"])


class HillSpace(Settings):
    x: tuple[float, float] = (0.0, 1.0)


class HillConfig(TuneSettings):
    out: str
    fail_above: float = 2.0
    pause_s: float = 0.0
    die_once: str = ""
    """A file that the first trial makes, and dies."""


class Hill(Search):
    """The score climbs to 1 - |x - 0.3| over the rungs."""

    name = "tune-hill"

    def __init__(self, config):
        super().__init__(config, HillSpace())

    def inputs(self):
        return {"hill": "one"}

    @property
    def rungs(self):
        return self.config.rungs

    def trial(self, values, folder):
        import time

        import ray

        (folder / "node").write_text(ray.get_runtime_context().get_node_id())
        if self.config.die_once and not os.path.exists(self.config.die_once):
            open(self.config.die_once, "w").close()
            os._exit(1)
        if values["x"] > self.config.fail_above:
            raise ValueError("too steep")
        for rung in range(1, self.rungs + 1):
            time.sleep(self.config.pause_s)
            yield Rung({"score": (1 - abs(values["x"] - 0.3)) * rung / self.rungs, "step": float(rung)}, rung == self.rungs)

    def winner(self, values, folder):
        return {"reranker": {"margin": values["x"]}}
