"""What keeps a re-ranker near its start: the divergence from it, and replayed pairs."""

import pickle

import numpy as np
import pytest
import torch

from readqg.errors import InputError
from readqg.reranker.losses import bce_loss
from readqg.reranker.training import RerankerTraining
from readqg.workers import Workers
from tests.generator.pairs import pair_row, write_pairs
from tests.reranker.corpus import reranker_config


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_the_anchor_is_0_at_the_start_and_pulls_back_to_it(tmp_path):
    stage = RerankerTraining(reranker_config(tmp_path, w_anchor=2.0, w_mr=0.0))
    model, batch = without_dropout(stage.build()), stage.batch(0)
    loss, metrics = stage.loss(model, batch)
    assert metrics["anchor"] == pytest.approx(0.0, abs=1e-6) and loss.item() == pytest.approx(metrics["bce"], abs=1e-5)
    with torch.no_grad():
        model.classifier.bias += 1.0
    loss, metrics = stage.loss(model, batch)
    assert metrics["anchor"] > 0.01 and loss.item() == pytest.approx(metrics["bce"] + 2.0 * metrics["anchor"], abs=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in stage._frozen.parameters())
    assert not any(parameter.requires_grad for parameter in stage._frozen.parameters())


def test_without_an_anchor_no_second_model_is_loaded(tmp_path):
    stage = RerankerTraining(reranker_config(tmp_path))
    stage.build()
    assert not hasattr(stage, "_frozen") and "anchor" not in stage.loss(stage.build(), stage.batch(0))[1]


@pytest.mark.parametrize("settings", [{}, {"search": "cached", "w_mr": 0.0}])
def test_replayed_pairs_are_judged_ones_and_a_share_of_the_batch(tmp_path, settings):
    pairs = write_pairs(tmp_path / "pairs", [pair_row(i, 2, 3) for i in range(5)])
    config = reranker_config(tmp_path, replay=str(pairs), replay_share=0.5, batch=6, **settings)
    stage = RerankerTraining(config)
    rows = {row["doc_id"]: row for row in stage.replay.pairs.read(range(5))}
    assert stage.batches.size == 3 and stage.inputs().keys() == {"queries", "documents", "replay"}
    seen = set()
    for number in range(4):
        drawn = stage.replay.batch(number)
        assert drawn == stage.replay.batch(number) and len(drawn) == 3
        for (positive, text), (negative, same) in drawn:
            row = next(r for r in rows.values() if r["text"] == text and positive in [q["query"] for q in r["positives"]])
            assert same == text and negative in [q["query"] for q in row["negatives"]]
            seen.add(row["doc_id"])
    assert seen == rows.keys(), "an epoch of the pairs is all of them"

    model, batch = without_dropout(stage.build()), stage.batch(0)
    _, metrics = stage.loss(model, batch)
    logits = torch.from_numpy(stage._scorer.without_gradient(model, batch.encoded, range(len(batch.encoded.input_ids))))
    own, others = batch.replayed_rows()
    assert len(own) == len(others) == batch.replayed == 3
    tokens = stage._scorer.tokenize([pair for document in stage.replay.batch(0) for pair in document])
    assert [ids.tolist() for ids in batch.encoded.input_ids[-6:]] == [ids.tolist() for ids in tokens.input_ids]
    matrix = logits[:9].view(3, 3)
    hardest = matrix.masked_fill(torch.eye(3, dtype=torch.bool), -np.inf).amax(1)
    expected = bce_loss(torch.cat([matrix.diagonal(), logits[own]]), torch.cat([hardest, logits[others]]))
    assert metrics["bce"] == pytest.approx(expected.item(), abs=1e-5)


def test_workers_share_the_replayed_documents(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", [pair_row(i, 2, 3) for i in range(5)])
    stage = RerankerTraining(reranker_config(tmp_path, replay=str(pairs), replay_share=0.5, batch=4, w_mr=0.0))
    whole = stage.batch(1)
    parts = [stage.batch(1, Workers(rank, 2)) for rank in range(2)]
    assert [part.replayed for part in parts] == [1, 1]
    together = [part.encoded.input_ids[row].tolist() for part in parts for side in part.replayed_rows() for row in side]
    assert sorted(together) == sorted(whole.encoded.input_ids[row].tolist() for side in whole.replayed_rows() for row in side)


def test_with_mined_documents_a_replayed_one_has_as_many_negatives(tmp_path):
    from tests.test_round_trip import round_trip

    pairs = write_pairs(tmp_path / "pairs", [pair_row(i, 1, 2) for i in range(4)])
    config = round_trip(reranker_config(tmp_path), tmp_path)
    stage = RerankerTraining(config.model_copy(update={"mined": 3, "w_mr": 0.0, "w_anchor": 1.0, "replay": str(pairs)}))
    batch = stage.batch(0)
    assert [len(side) for side in batch.replayed_rows()] == [1, 3]
    model = without_dropout(stage.build())
    assert stage.loss(model, batch)[1]["anchor"] == pytest.approx(0.0, abs=1e-6)


def test_a_share_that_leaves_no_batch_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"replay_share 0.9 of a batch of 4 leaves 0 of its documents"):
        reranker_config(tmp_path, replay="pairs", replay_share=0.9)


def test_pairs_without_negatives_are_refused(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", [pair_row(0, 2, 0)])
    stage = RerankerTraining(reranker_config(tmp_path, replay=str(pairs)))
    with pytest.raises(InputError, match=r"'d0' has 2 positives and 0 negatives; replay needs both"):
        stage.batch(0)


def test_a_stage_made_anew_goes_on_with_the_same_losses(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", [pair_row(i, 2, 3) for i in range(5)])
    stage = RerankerTraining(reranker_config(tmp_path, replay=str(pairs), w_anchor=1.0, batch=6))
    sent = pickle.dumps(stage)

    def steps(stage, model, first, stop):
        found = []
        for step in range(first, stop):
            torch.manual_seed(step)  # as the training loop does: dropout is on
            loss, _ = stage.loss(model, stage.batch(step))
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            found.append(loss.item())
        return found

    model = stage.build()
    steps(stage, model, 0, 2)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    unbroken = steps(stage, model, 2, 4)
    fresh = pickle.loads(sent)
    again = fresh.build()
    again.load_state_dict(weights)
    assert steps(fresh, again, 2, 4) == unbroken
