"""What a search is: a space, and trials that are judged at rungs on the way. The engine runs these.

A trial is a plain function of its values and the config. Its folder is named by a hash of the values and holds

```
values.json     what was tried; written first
curve.jsonl     one line a rung: rung, score, metrics, seconds
result.json     finished, stopped (by ASHA or the budget) or failed; written last
model/          what a finished trial trained, where the winner needs it
```
so a search that was killed goes on from what lies there: nothing is unpickled, a trial with a result keeps it, and one without
is begun again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from readqg.config import Settings, TuneSettings
from readqg.errors import ConfigError
from readqg.shards import fingerprint, write_whole

Values = dict[str, float | int]
Status = Literal["begun", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included; `log`: equal ratios are equally likely; `whole`: whole numbers."""

    low: float
    high: float
    log: bool
    whole: bool


class Rung(NamedTuple):
    """A trial judged on its way: `metrics` has `score`, finite, higher is better; `last`: the trial is finished."""

    metrics: dict[str, float]
    last: bool


class Search:
    """Subclasses set `name`, and implement what raises here. Picklable: trials run in processes of their own."""

    name: str

    def __init__(self, config: TuneSettings, space: Settings) -> None:
        self.config = config
        self.space = ranges(space)

    def inputs(self) -> dict[str, str]:
        """Name -> fingerprint of every input."""
        raise NotImplementedError

    def models(self) -> dict[str, str]:
        """Name -> fingerprint of every model used."""
        return {}

    def prepare(self, out: Path) -> None:
        """What all trials share, made once; called again it does nothing."""

    @property
    def rungs(self) -> int:
        """How often a trial is judged, at most."""
        raise NotImplementedError

    def trial(self, values: Values, folder: Path) -> Iterator[Rung]:
        """Train, and stop at every rung. What the winner needs lies in `folder` before the last is given."""
        raise NotImplementedError

    def winner(self, values: Values, folder: Path) -> dict[str, Any]:
        """Fields of a config for `readqg run`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Trial:
    """A trial as its folder says it is."""

    folder: Path
    values: Values

    @classmethod
    def begin(cls, root: Path, values: Mapping[str, Any]) -> Trial:
        """A trial's folder, with nothing in it that an earlier, broken try has left."""
        trial = cls.named(root, values)
        trial._name()
        if not trial.has_result:
            (trial.folder / "curve.jsonl").unlink(missing_ok=True)
        return trial

    @classmethod
    def named(cls, root: Path, values: Mapping[str, Any]) -> Trial:
        return cls(root / fingerprint(dict(values))[:12], dict(values))

    @property
    def has_result(self) -> bool:
        return (self.folder / "result.json").exists()

    def _name(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "values.json", json.dumps(self.values, sort_keys=True))

    def add(self, rung: int, metrics: Mapping[str, float], seconds: float) -> None:
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps({"rung": rung, **metrics, "seconds": round(seconds, 1)}) + "\n")

    def end(self, status: Status, error: str | None = None) -> None:
        """The first result stays."""
        if not self.has_result:
            self._name()  # it may have died before it began
            write_whole(self.folder / "result.json", json.dumps({"status": status, "error": error}))

    @cached_property
    def curve(self) -> list[dict[str, float]]:
        path = self.folder / "curve.jsonl"
        lines = []
        for text in path.read_text().splitlines() if path.exists() else []:
            try:
                lines.append(json.loads(text))
            except ValueError:  # the line that was being written when the trial was killed
                continue
        return lines

    @cached_property
    def result(self) -> dict[str, Any]:
        path = self.folder / "result.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"status": "begun", "error": None}
        return found

    @property
    def status(self) -> Status:
        status: Status = self.result["status"]
        return status

    @property
    def score(self) -> float | None:
        """At the last rung that was reached."""
        return self.curve[-1]["score"] if self.curve else None

    @property
    def seconds(self) -> float:
        return self.curve[-1]["seconds"] if self.curve else 0.0


def trials(root: Path) -> list[Trial]:
    """The trials that were begun, in the order of their hashes."""
    found = [(path.parent, json.loads(path.read_text())) for path in sorted(root.glob("*/values.json"))]
    return [Trial(folder, values) for folder, values in found]


def best(found: list[Trial]) -> Trial | None:
    """The finished trial with the highest score; of equal ones the first."""
    finished = [(t.score, t) for t in found if t.status == "finished"]
    ranked = [(score, t) for score, t in finished if score is not None and math.isfinite(score)]
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


def ranges(space: Settings) -> dict[str, Range]:
    """A space's fields as ranges. Raises `ConfigError` for one that is no range."""
    found = {}
    for name in type(space).model_fields:
        low, high = getattr(space, name)
        if low > high:
            raise ConfigError(f"space.{name}: the lowest value, {low}, is above the highest, {high}.")
        whole = isinstance(low, int) and isinstance(high, int)
        # What may be 0 or less has no ratios.
        found[name] = Range(low, high, low > 0 and high / low >= 4, whole)
    return found


def rung_steps(steps: int, rungs: int) -> list[int]:
    """The steps after which a trial is judged: at most `rungs`, at equal distances, the last step among them."""
    rungs = min(rungs, steps)
    return [round(steps * k / rungs) for k in range(1, rungs + 1)]
