"""What is trained does not depend on interruptions, on the number of workers or on how ZeRO splits it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from readqg.config import TrainGeneratorConfig, TrainRerankerConfig, TrainSettings
from readqg.engine import checkpoints, train
from readqg.errors import ConfigError
from readqg.generator.training import GeneratorTraining
from readqg.reranker.training import RerankerTraining
from readqg.workers import ALONE, Workers
from tests.builders import tiny_cross_encoder, tiny_llama, tiny_t5
from tests.engine.toys import Killed, begun
from tests.generator.pairs import pair_row, write_pairs
from tests.reranker.corpus import DOCUMENTS, both_queries, query_row, reranker_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(900)]

FILES = {"generator": "prompts.safetensors", "decoder-only": "prompts.safetensors", "reranker": "model.safetensors"}
HERE = {"device": "cpu", "precision": "fp32", "threads": 1}


class KilledGenerator(Killed, GeneratorTraining):
    """The real stage, killed."""

    def batch(self, number: int, workers: Any = ALONE) -> Any:
        self.meet(number)
        return super().batch(number, workers)


class KilledReranker(Killed, RerankerTraining):
    """The real stage, killed."""

    def batch(self, number: int, workers: Any = ALONE) -> Any:
        self.meet(number)
        return super().batch(number, workers)


@pytest.fixture(autouse=True, scope="module")
def by_value(ray_here: None) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, queries, documents and tiny models."""
    folder = tmp_path_factory.mktemp("inputs")
    write_pairs(folder / "pairs", [pair_row(i, 1 + i % 2, 2) for i in range(24)], parts=3, rows_per_group=3)
    tiny_t5(folder / "t5")
    tiny_llama(folder / "llama")
    half = [query_row(f"d{i}", 0.5, f"the half of {i}") for i in range(5)]  # that only some have, for training that is graded
    reranker_config(folder / "reranker", [row for doc_id in DOCUMENTS for row in both_queries(doc_id)] + half)
    return folder


def make(kind: str, folder: Path, out: Path, steps: int, dropout: bool, **settings: Any) -> tuple[Any, Any]:
    """The stage and its config, `steps` steps."""
    if kind == "reranker":
        start = folder / "reranker" / "start"
        if not dropout:
            start = folder / "no-dropout"
            if not start.exists():
                tiny_cross_encoder(start)
                content = json.loads((start / "config.json").read_text())
                content |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
                (start / "config.json").write_text(json.dumps(content))
        values = {"queries": str(folder / "reranker" / "queries"), "documents": str(folder / "reranker" / "documents"),
                  "start": str(start), "batch": 4, "max_length": 48, "epochs": steps // 3, "learning_rate": 1e-3,
                  "out": str(out), "compute": HERE}
        config: Any = TrainRerankerConfig(**{**values, **settings})
        stage: Any = KilledReranker(config)
    else:
        backbone = folder / ("llama" if kind == "decoder-only" else "t5")
        values = {"pairs": str(folder / "pairs"), "backbone": str(backbone), "n_relevance": 2, "n_instruction": 3, "m": 2,
                  "documents_per_step": 4, "steps": steps, "held_out_documents": 4, "document_tokens": 32, "query_tokens": 12,
                  "dropout": dropout, "out": str(out), "compute": HERE}
        config = TrainGeneratorConfig(**{**values, **settings})
        stage = KilledGenerator(config)
    return stage, config


def trained(kind: str, folder: Path, out: Path, steps: int, dropout: bool, deadly: tuple[int, ...] = (), **settings: Any) -> Path:
    stage, config = make(kind, folder, out, steps, dropout, **settings)
    stage.deadly, stage.marks = deadly, str(out.parent)
    train.run(stage, config)
    return out


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("kind", list(FILES))
def test_killed_twice_and_resumed_equals_unbroken_to_the_bit(kind: str, inputs: Path, tmp_path: Path) -> None:
    often = {"checkpoint_steps": 10, "validate_steps": 30}
    whole = trained(kind, inputs, tmp_path / "a" / "out", 60, True, train=often)
    broken = trained(kind, inputs, tmp_path / "b" / "out", 60, True, (23, 41), train=often)
    assert begun(tmp_path / "b") == [0, 20, 40]
    assert (whole / FILES[kind]).read_bytes() == (broken / FILES[kind]).read_bytes()
    assert losses(whole) == losses(broken)
    assert len(losses(whole)) == 60


@pytest.mark.parametrize("kind", ["generator", "reranker"])
def test_two_workers_equal_one(kind: str, inputs: Path, tmp_path: Path) -> None:
    found = {}
    for optimizer in ("adamw", "sgd"):
        for workers in (1, 2):
            out = tmp_path / f"{optimizer}{workers}"
            trained(kind, inputs, out, 21, False, compute={**HERE, "workers": workers}, train={"optimizer": optimizer})
            found[optimizer, workers] = out
    one, two = (losses(found["adamw", workers]) for workers in (1, 2))
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    one_weights, two_weights = (load_file(found["sgd", workers] / FILES[kind]) for workers in (1, 2))
    assert max((one_weights[name] - two_weights[name]).abs().max() for name in one_weights) < 1e-6


@pytest.mark.parametrize("kind", ["generator", "reranker"])
def test_zero_changes_nothing(kind: str, inputs: Path, tmp_path: Path) -> None:
    found = {}
    for zero in range(4):
        out = tmp_path / f"zero{zero}"
        trained(kind, inputs, out, 12, False, compute={**HERE, "workers": 2}, train={"zero_stage": zero, "validate_steps": 6})
        found[zero] = losses(out), load_file(out / FILES[kind])
    for zero in (1, 2, 3):
        assert max(abs(a - b) for a, b in zip(found[0][0], found[zero][0], strict=True)) < 1e-5, zero
        # A key's bias adds the same to all of a query's scores, so its gradient is 0 but for rounding, which Adam scales up.
        names = [name for name in found[0][1] if not name.endswith("key.bias")]
        assert all(torch.allclose(found[0][1][name], found[zero][1][name], atol=1e-5) for name in names), zero


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_killed_and_resumed_equals_unbroken_however_zero_splits(zero: int, inputs: Path, tmp_path: Path) -> None:
    how = {"compute": {**HERE, "workers": 2}, "train": {"zero_stage": zero, "checkpoint_steps": 4, "validate_steps": 12}}
    whole = trained("reranker", inputs, tmp_path / "a" / "out", 12, True, **how)
    broken = trained("reranker", inputs, tmp_path / "b" / "out", 12, True, (6,), **how)
    assert set(begun(tmp_path / "b")) == {0, 4}
    assert losses(whole) == losses(broken)
    assert (whole / FILES["reranker"]).read_bytes() == (broken / FILES["reranker"]).read_bytes()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"workers": 2, "precision": "fp32"}, r"begun with 2 workers and ZeRO 1.*there are 1 now"),
        ({"workers": 1, "precision": "bf16"}, r"begun in bf16, and this machine would go on in fp32"),
    ],
)
def test_a_checkpoint_of_other_workers_or_precision_is_refused(facts: dict[str, Any], said: str) -> None:
    now = ("train", TrainSettings(zero_stage=1), Workers(), "fp32")
    checkpoints.fits(now[0], {"workers": 1, "precision": "fp32"}, *now[1:])
    with pytest.raises(ConfigError, match=said):
        checkpoints.fits(now[0], facts, *now[1:])


def test_the_cached_search_goes_on_as_if_unbroken(inputs: Path, tmp_path: Path) -> None:
    often = {"checkpoint_steps": 4}
    whole = trained("reranker", inputs, tmp_path / "a" / "out", 12, True, train=often, search="cached")
    broken = trained("reranker", inputs, tmp_path / "b" / "out", 12, True, (7,), train=often, search="cached")
    assert begun(tmp_path / "b") == [0, 4]
    assert (whole / FILES["reranker"]).read_bytes() == (broken / FILES["reranker"]).read_bytes()


def test_anchored_and_with_replay_it_goes_on_as_if_unbroken(inputs: Path, tmp_path: Path) -> None:
    settings = {"w_anchor": 1.0, "replay": str(inputs / "pairs"), "batch": 6, "train": {"checkpoint_steps": 4}}
    whole = trained("reranker", inputs, tmp_path / "a" / "out", 12, True, **settings)
    broken = trained("reranker", inputs, tmp_path / "b" / "out", 12, True, (7,), **settings)
    assert begun(tmp_path / "b") == [0, 4]
    assert (whole / FILES["reranker"]).read_bytes() == (broken / FILES["reranker"]).read_bytes()
    assert losses(whole) == losses(broken)


def test_two_workers_equal_one_anchored_graded_and_with_replay(inputs: Path, tmp_path: Path) -> None:
    found = {}
    for workers in (1, 2):
        trained("reranker", inputs, tmp_path / str(workers), 12, False, w_anchor=1.0, graded=2, replay=str(inputs / "pairs"), batch=6,
                compute={**HERE, "workers": workers}, train={"optimizer": "sgd"})
        found[workers] = load_file(tmp_path / str(workers) / FILES["reranker"])
    assert max((found[1][name] - found[2][name]).abs().max() for name in found[1]) < 1e-6
