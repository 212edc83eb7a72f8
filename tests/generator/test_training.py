"""Training of the prompts: the total loss, what is validated, what is saved."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from readqg.config import TrainGeneratorConfig
from readqg.errors import InputError, ReadQGError
from readqg.generator.backbone import Backbone
from readqg.generator.losses import calibration_loss, self_contrastive_loss
from readqg.generator.model import Generator
from readqg.generator.prompts import SoftPrompt
from readqg.generator.training import GeneratorTraining
from readqg.shards import open_input
from tests.builders import tiny_llama, tiny_t5
from tests.generator.pairs import pair_row, query, write_pairs

BACKBONES = {
    "T5, tied": lambda folder: tiny_t5(folder, tied=True),
    "T5, untied": lambda folder: tiny_t5(folder, tied=False),
    "Llama": tiny_llama,
}


@pytest.fixture(scope="module", params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BACKBONES[request.param](tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", [pair_row(i, 1 + i % 2, 2) for i in range(8)], parts=2)


def make(pairs: Path, backbone: Path, **changes: Any) -> GeneratorTraining:
    small: dict[str, Any] = {
        "n_relevance": 2, "n_instruction": 3, "m": 2, "documents_per_step": 2, "steps": 4, "held_out_documents": 3,
        "document_tokens": 32, "query_tokens": 12, "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
    }
    return GeneratorTraining(TrainGeneratorConfig(pairs=str(pairs), out="unused", backbone=str(backbone), **{**small, **changes}))


def double(generator: Generator) -> Generator:
    """The same in float64."""
    generator.backbone.lm.double()
    return generator


def fed_the_tokens(generator: Generator, text: str, relevance: float, target: list[int]) -> tuple[Tensor, Tensor]:
    """Token log-likelihoods (T,) and states (S, H) of the backbone alone, from ids: one sequence, nothing padded. The
    prompts' ids are those that they start from."""
    backbone, facts = generator.backbone, generator.prompts.facts
    word = backbone.token_ids("true" if relevance == 1.0 else "false")
    prefix = backbone.token_ids(facts.instruction)[:3] + (word * 2)[:2] + backbone.token_ids(text)[:32]
    if backbone.kind == "encoder-decoder":
        out = backbone.lm(input_ids=torch.tensor([[*prefix, backbone.end_id]]), labels=torch.tensor([target]))
        logits, states = out.logits[0], out.encoder_last_hidden_state[0]
    else:
        separator = backbone.token_ids(facts.separator)
        ids = torch.tensor([prefix + separator + target])
        states = backbone.lm.base_model(input_ids=ids).last_hidden_state[0, : len(prefix)]
        logits = backbone.lm(input_ids=ids).logits[0, len(prefix + separator) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)], states


def test_a_steps_loss_is_that_of_the_backbone_fed_the_same_tokens(tmp_path: Path, backbone: Path) -> None:
    """Relevance 1 and 0 alone, so that every prompt is a real token's embedding; twins come with it."""
    rows = [pair_row(i, 2, 2) for i in range(3)]
    for row in rows:
        row["positives"] = [{**q, "relevance": 1.0} for q in row["positives"]]
        row["negatives"] = [{**q, "relevance": 0.0} for q in row["negatives"]]
    stage = make(write_pairs(tmp_path / "pairs", rows), backbone, held_out_documents=1, w_sc=0.7, w_cal=0.3)
    generator = double(stage.build())
    batch = stage.batch(0)
    total, metrics = stage.loss(generator, batch)

    forward, reverse, states, groups = [], [], [], []
    for place, row in enumerate(batch.rows):
        positives, negatives = row["positives"], sorted(row["negatives"], key=lambda q: -q["score"])
        for r, own, other in ((1.0, positives, negatives), (0.0, negatives, positives)):
            for q, contradicting in zip(own, other, strict=True):
                tokens, state = fed_the_tokens(generator, row["text"], r, generator.target_ids(q["query"], 12))
                forward.append(tokens)
                reverse.append(fed_the_tokens(generator, row["text"], r, generator.target_ids(contradicting["query"], 12))[0].sum())
                states.append(state.mean(0, keepdim=True))
                groups.append(place * 2 + int(r))
    mle = -torch.cat(forward).mean()
    contrast = self_contrastive_loss(torch.stack(states), torch.ones(8, 1), temperature=0.25, groups=torch.tensor(groups))
    sums, kinds = torch.stack([t.sum() for t in forward]), torch.tensor([True, True, False, False] * 2)
    calibration = calibration_loss(sums, torch.stack(reverse), kinds, margin=1.0, target_length=12)
    assert metrics["mle"] == pytest.approx(float(mle), abs=1e-6)
    assert metrics["sc"] == pytest.approx(float(contrast), abs=1e-6)
    assert metrics["cal"] == pytest.approx(float(calibration), abs=1e-6)
    assert metrics["gap"] == pytest.approx(float((sums - torch.stack(reverse)).mean()), abs=1e-6)
    assert float(total.detach()) == pytest.approx(float(mle + 0.7 * contrast + 0.3 * calibration), abs=1e-6)


@pytest.mark.parametrize("profile", ["paper", "authors"])
def test_gradients_of_the_total_reach_the_prompts_and_nothing_else(pairs: Path, backbone: Path, profile: str) -> None:
    stage = make(pairs, backbone, profile=profile)
    generator = stage.build()
    stage.loss(generator, stage.batch(0))[0].backward()
    trained = dict(generator.named_parameters())
    assert len(trained) == 3 and all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())
    assert not any(p.requires_grad or p.grad is not None for p in generator.backbone.lm.parameters())


@pytest.mark.parametrize("loss", ["mle", "sc", "cal"])
def test_a_single_loss_can_be_trained_on(pairs: Path, backbone: Path, loss: str) -> None:
    weights = {"w_mle": 0.0, "w_sc": 0.0, "w_cal": 0.0, f"w_{loss}": 2.0}
    stage = make(pairs, backbone, **weights)
    total, metrics = stage.loss(stage.build(), stage.batch(0))
    assert set(metrics) - {"gap"} == {loss}
    assert float(total.detach()) == pytest.approx(2 * metrics[loss], rel=1e-6)


def count_calls(module: torch.nn.Module) -> list[int]:
    """Grows by the number of positions with every call of `module`."""
    calls: list[int] = []
    module.register_forward_hook(lambda _, args, kwargs, out: calls.append(out.last_hidden_state.shape[1]), with_kwargs=True)
    return calls


def test_the_encoder_or_prefix_runs_once_a_step_for_both_passes(pairs: Path, backbone: Path) -> None:
    stage = make(pairs, backbone)
    generator = stage.build()
    lm = generator.backbone.lm
    if generator.kind == "encoder-decoder":
        encoder, decoder = count_calls(lm.get_encoder()), count_calls(lm.get_decoder())
        stage.loss(generator, stage.batch(0))
        assert len(encoder) == len(decoder) == 1
        return
    calls = count_calls(lm.base_model)
    stage.loss(generator, stage.batch(0))
    prefix, queries = calls
    assert prefix > queries <= stage.config.query_tokens


def test_without_losses_on_queries_none_is_scored(pairs: Path, backbone: Path) -> None:
    stage = make(pairs, backbone, w_mle=0.0, w_cal=0.0)
    generator = stage.build()
    heads: list[int] = []
    generator.backbone.lm.get_output_embeddings().register_forward_hook(lambda *_: heads.append(1))
    stage.loss(generator, stage.batch(0))
    assert heads == []


def test_the_papers_loss_does_not_see_what_the_batch_is_padded_to(tmp_path: Path, backbone: Path) -> None:
    """A document alone, and the same with its own text in a batch that a longer document and query widen."""
    short, long = pair_row(0), pair_row(1)
    long["text"] *= 3
    long["positives"][0]["query"] = "what is the flow of the shock wave"
    stage = make(write_pairs(tmp_path / "pairs", [short, long]), backbone, held_out_documents=0, w_sc=0.0)
    generator = double(stage.build())

    def sums(*rows: dict[str, Any]) -> tuple[float, float, int]:
        batch = type(stage.batch(0))(list(rows), "")
        _, metrics = stage.loss(generator, batch)
        tokens = sum(len(generator.target_ids(q["query"], 12)) for row in rows for q in row["positives"] + row["negatives"])
        return metrics["mle"] * tokens, metrics["cal"] * 4 * len(rows), tokens

    alone, other, both = sums(short), sums(long), sums(short, long)
    assert both == pytest.approx([a + b for a, b in zip(alone, other, strict=True)], abs=1e-9)


def test_length_normalised_calibration_compares_log_likelihoods_a_token(pairs: Path, backbone: Path) -> None:
    gaps = {}
    for profile in ("paper", "authors"):
        stage = make(pairs, backbone, length_normalised=True, margin=50.0, profile=profile)
        generator = stage.build()
        rows = stage.batch(0)
        _, metrics = stage.loss(generator, rows)
        per_token = []
        for row in rows.rows:
            positives, negatives = (sorted(row[side], key=lambda q: -q["score"]) for side in ("positives", "negatives"))
            positives = (positives * 2)[:2] if len(positives) == 1 else positives
            for p, n in zip(positives, negatives, strict=True):
                for own, other in ((p, n), (n, p)):
                    s_own, s_other = (
                        generator.log_likelihoods([row["text"]], [own["relevance"]], [q["query"]], document_tokens=32, query_tokens=12)
                        .item() / len(generator.target_ids(q["query"], 12)) for q in (own, other))
                    per_token.append(50.0 - s_own + s_other)
        gaps[profile] = metrics["cal"]
        assert metrics["cal"] == pytest.approx(sum(per_token) / len(per_token), rel=1e-5)
    assert gaps["paper"] == pytest.approx(gaps["authors"], rel=1e-5)  # a length divided out is not divided by again


def test_likelihood_rises_as_the_prompts_train(pairs: Path, backbone: Path) -> None:
    stage = make(pairs, backbone, w_sc=0.1, w_cal=0.1, documents_per_step=5)
    generator = stage.build()
    optimizer = torch.optim.AdamW([p for p in generator.parameters() if p.requires_grad], lr=5e-2, weight_decay=0.0)
    frozen = [p.clone() for p in generator.backbone.lm.parameters()]
    before, mle = stage.validate(generator), []
    for step in range(15):
        loss, metrics = stage.loss(generator, stage.batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mle.append(metrics["mle"])
    after = stage.validate(generator)
    assert mle[-1] < mle[0] - 0.1
    assert after["positive_own"] > before["positive_own"] and after["negative_own"] > before["negative_own"]
    assert all(torch.equal(a, b) for a, b in zip(frozen, generator.backbone.lm.parameters(), strict=True))


def test_validation_scores_held_out_queries_at_their_own_and_at_the_contradicting_relevance(tmp_path: Path, backbone: Path) -> None:
    rows = [{**pair_row(i), "positives": [query("p", "what is heat", 5.0, 0.9)], "negatives": [query("n", "the flow of x", -5.0, 0.2)]}
            for i in range(5)]
    path = write_pairs(tmp_path / "pairs", rows)
    stage = make(path, backbone, m=1)
    generator = stage.build()
    found = stage.validate(generator)
    assert generator.training  # as it was

    texts = [open_input(path).read()["text"].to_pylist()[row] for row in stage.pairs.held_out]
    assert len(texts) == 3

    def mean(text: str, relevance: float) -> float:
        s = generator.log_likelihoods(texts, [relevance] * 3, [text] * 3, document_tokens=32, query_tokens=12)
        return float(s.detach().mean())

    expected = {
        "positive_own": mean("what is heat", 0.9), "positive_swapped": mean("what is heat", 0.2),
        "negative_own": mean("the flow of x", 0.2), "negative_swapped": mean("the flow of x", 0.9),
    }
    assert found == pytest.approx(expected, abs=1e-4)


def test_nothing_held_out_means_nothing_validated(pairs: Path, backbone: Path) -> None:
    stage = make(pairs, backbone, held_out_documents=0)
    assert stage.validate(stage.build()) == {}


def test_dropout_is_off_in_validation_and_on_in_training_when_asked_for(pairs: Path, tmp_path: Path) -> None:
    stage = make(pairs, tiny_t5(tmp_path), dropout=True)
    generator = stage.build()
    losses = {float(stage.loss(generator, stage.batch(0))[0].detach()) for _ in range(2)}
    assert len(losses) == 2
    assert stage.validate(generator) == stage.validate(generator)


def test_what_is_saved_loads_into_the_same_generator(pairs: Path, backbone: Path, tmp_path: Path) -> None:
    stage = make(pairs, backbone)
    generator = stage.build()
    log = [{"step": 1, "loss": 2.5}, {"step": 2, "validation": {"score": -3.0}}]
    stage.save(generator, tmp_path, log)
    assert [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()] == log
    prompts = SoftPrompt.load(tmp_path)
    assert prompts.facts.data_fingerprint == stage.inputs()["pairs"] == open_input(pairs).fingerprint
    assert prompts.facts.base_fingerprint == Backbone.load(backbone).fingerprint
    loaded = Generator.load(backbone, tmp_path)
    assert torch.equal(loaded.prompts.relevance.plus, generator.prompts.relevance.plus)


def test_the_stage_travels_to_a_worker_and_gives_the_same_batches(pairs: Path, backbone: Path) -> None:
    stage = make(pairs, backbone)
    assert pickle.loads(pickle.dumps(stage)).batch(7) == stage.batch(7)
    assert stage.batch(7) != stage.batch(8)


def test_unfinished_pairs_are_refused(tmp_path: Path, backbone: Path) -> None:
    (tmp_path / "pairs").mkdir()
    with pytest.raises(InputError, match="no _SUCCESS"):
        make(tmp_path / "pairs", backbone)


def test_a_backbone_that_is_not_there_is_refused_before_training(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ReadQGError, match="no such model folder"):
        make(pairs, tmp_path / "absent").models()
