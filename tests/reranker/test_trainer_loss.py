"""The loss in sentence-transformers' own trainer, beside our loop."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from torch.nn import Identity
from torch.utils.data import BatchSampler, SequentialSampler

import readqg
from readqg.reranker.losses import in_batch_bce_loss, margin_ranking_loss
from readqg.reranker.training import RerankerTraining
from readqg.tuning.loop import train
from tests.reranker.corpus import reranker_config

STEPS = 10


class InOrder(CrossEncoderTrainer):
    """Batches as the dataset has them."""

    def get_batch_sampler(self, dataset: Any, batch_size: int, **kwargs: Any) -> Any:
        return BatchSampler(SequentialSampler(dataset), batch_size, drop_last=True)


@pytest.fixture
def stage(tmp_path: Path) -> RerankerTraining:
    config = reranker_config(tmp_path, epochs=5, learning_rate=1e-3, schedule="constant", warmup_epochs=0.0)
    file = Path(config.start) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    return RerankerTraining(config)


def columns(stage: RerankerTraining, steps: int) -> dict[str, list[str]]:
    triples = [t for step in range(steps) for t in stage.batches.triples(step)]
    texts = stage.documents.texts([t.doc_id for t in triples])
    return {"query": [t.positive for t in triples], "document": texts, "negative": [t.negative or "" for t in triples]}


def test_the_trainer_and_our_loop_agree_step_by_step(stage: RerankerTraining, tmp_path: Path) -> None:
    ours, model = [], stage.build()
    loss = stage.loss
    stage.loss = lambda *a: (ours.append(found := loss(*a)), found)[1]  # type: ignore[method-assign,func-returns-value]
    for _ in train(stage, model, stage.config, [STEPS]):
        pass
    encoder = CrossEncoder(stage.config.start, device="cpu", max_length=stage.config.max_length)
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path / "trainer"), per_device_train_batch_size=4, max_steps=STEPS, learning_rate=1e-3,
        lr_scheduler_type="constant", weight_decay=0.01, max_grad_norm=1.0, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True)
    trainer = InOrder(model=encoder, args=arguments, train_dataset=Dataset.from_dict(columns(stage, STEPS)),
                      loss=readqg.RelevanceAwareLoss(encoder))
    trainer.train()
    theirs = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(theirs) == len(ours) == STEPS
    assert max(abs(float(o[0].detach()) - t) for o, t in zip(ours, theirs, strict=True)) < 1e-4


@pytest.mark.parametrize("negative_pair", ["query_query", "query_document"])
def test_value_and_gradient_are_those_of_the_whole_matrix(stage: RerankerTraining, negative_pair: str) -> None:
    encoder = CrossEncoder(stage.config.start, device="cpu", max_length=48)
    queries, documents, negatives = columns(stage, 1).values()
    loss = readqg.RelevanceAwareLoss(encoder, margin=0.5, negative_pair=negative_pair, mini_batch_size=3)
    value = loss([queries, documents, negatives])
    value.backward()
    chosen = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()

    def score(first: list[str], second: list[str]) -> torch.Tensor:
        return encoder(encoder.preprocess(list(zip(first, second, strict=True))))["scores"].view(-1)

    scores = torch.stack([score([query] * 4, documents) for query in queries])
    pair = (queries, negatives) if negative_pair == "query_query" else (negatives, documents)
    whole = in_batch_bce_loss(scores) + margin_ranking_loss(scores.diagonal(), score(*pair), margin=0.5)
    whole.backward()
    assert float(value) == pytest.approx(float(whole), abs=1e-5)
    assert all(torch.allclose(a, p.grad, atol=1e-5) for a, p in zip(chosen, encoder.parameters(), strict=True))


def test_two_columns_leave_eq_6_out_and_other_numbers_are_refused(stage: RerankerTraining) -> None:
    encoder = CrossEncoder(stage.config.start, device="cpu", max_length=48)
    loss = readqg.RelevanceAwareLoss(encoder, margin=100.0)
    queries, documents, negatives = columns(stage, 1).values()
    pairs = [(query, document) for query in queries for document in documents]
    scores = torch.tensor(encoder.predict(pairs, activation_fn=Identity())).view(4, 4)
    assert float(loss([queries, documents])) == pytest.approx(float(in_batch_bce_loss(scores)), abs=1e-5)
    assert float(loss([queries, documents, negatives])) > float(loss([queries, documents])) + 90
    with pytest.raises(ValueError, match="found 1 columns of 4 rows"):
        loss([queries])


def test_a_word_that_nobody_knows_is_refused(stage: RerankerTraining) -> None:
    encoder = CrossEncoder(stage.config.start, device="cpu", max_length=48)
    with pytest.raises(ValueError, match="negative_pair is one of query_query, query_document; found 'query-query'"):
        readqg.RelevanceAwareLoss(encoder, negative_pair="query-query")


def test_a_last_batch_of_one_row_has_no_second_mean_and_no_crash(stage: RerankerTraining, tmp_path: Path) -> None:
    encoder = CrossEncoder(stage.config.start, device="cpu", max_length=48)
    loss, seen = readqg.RelevanceAwareLoss(encoder, margin=100.0), []
    loss.register_forward_hook(lambda _, inputs, value: seen.append((len(inputs[0][0]), float(value.detach()))))
    three = {name: values[:3] for name, values in columns(stage, 1).items()}
    query, document, negative_query = (values[2] for values in three.values())
    own, negative = encoder.predict([(query, document), (query, negative_query)], activation_fn=Identity())
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path / "trainer"), per_device_train_batch_size=2, num_train_epochs=1, learning_rate=0.0, report_to=[],
        save_strategy="no", use_cpu=True)
    trainer = CrossEncoderTrainer(model=encoder, args=arguments, train_dataset=Dataset.from_dict(three), loss=loss)
    trainer.train()
    assert sorted(rows for rows, _ in seen) == [1, 2] and trainer.state.global_step == 2
    assert all(math.isfinite(value) for _, value in seen)
    assert float(loss([[query], [document], [negative_query]])) == pytest.approx(
        0.5 * math.log1p(math.exp(-own)) + 100 + negative - own, abs=1e-4)
