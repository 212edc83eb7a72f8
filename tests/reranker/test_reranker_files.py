import json

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from sentence_transformers import CrossEncoder
from torch import nn

from readqg.crossencoder import CrossEncoderScorer
from readqg.reranker.card import model_card
from readqg.reranker.selection import read_verdict
from readqg.reranker.training import RerankerTraining
from tests.reranker.corpus import reranker_config

PAIRS = [("what is the wing", "the wing of the flow"), ("heat", "boundary layer " * 30), ("shock", "the shock")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(stage, trained model, its folder) after two steps."""
    root = tmp_path_factory.mktemp("saved")
    stage = RerankerTraining(reranker_config(root))
    model, out = stage.build(), root / "model"
    log = [{"step": 0, "validation": stage.validate(model)}]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(2):
        loss, metrics = stage.loss(model, stage.batch(step))
        loss.backward()
        optimizer.step()
        log.append({"step": step + 1, "loss": loss.item(), **metrics})
    log.append({"step": 2, "validation": stage.validate(model)})
    out.mkdir()
    stage.save(model, out, json.loads(json.dumps(log)))
    return stage, model, out


def test_the_folder_loads_as_a_plain_cross_encoder_with_the_same_scores(saved):
    stage, model, folder = saved
    encoder = CrossEncoder(str(folder), device="cpu")
    assert isinstance(encoder.activation_fn, nn.Identity)
    tokenize = stage._scorer.tokenize
    pairs = [(first, " ".join(second.split()[:20])) for first, second in PAIRS]
    mine = stage._scorer.without_gradient(model, tokenize(pairs), range(3))
    assert np.allclose(encoder.predict(pairs), mine, atol=1e-5)
    ours = CrossEncoderScorer(str(folder), 64, 8192, "cpu", torch.float32).score(PAIRS)
    assert np.allclose(encoder.predict(PAIRS), ours, atol=1e-5)


def test_the_saved_weights_are_the_trained_ones_in_float32(saved):
    stage, model, folder = saved
    with safe_open(folder / "model.safetensors", "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with safe_open(f"{stage.config.start}/model.safetensors", "pt") as file:
        start = file.get_tensor("classifier.weight")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert torch.equal(found["classifier.weight"], model.classifier.weight)
    assert not torch.equal(found["classifier.weight"], start)


def test_the_folder_holds_no_pickle(saved):
    names = {path.name for path in saved[2].iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "guard.json", "training_log.jsonl"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_the_log_keeps_every_held_out_document(saved):
    stage, _, folder = saved
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    checks = [line["validation"] for line in lines if "validation" in line]
    assert [len(check["ndcg"]) for check in checks] == [stage.counts["documents_held_out"]] * 2
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]


def test_the_card_says_what_the_guard_says(saved):
    stage, _, folder = saved
    verdict, start = read_verdict(folder)
    card = (folder / "README.md").read_text()
    assert start == stage.config.start
    assert verdict.reason in card
    assert f"| start | {verdict.before:.4f} |" in card
    assert f"| this model | {verdict.after:.4f} |" in card
    assert ("Do not use this model" in card) == (verdict.use == "start")
    assert f"| documents trained | {stage.counts['documents_trained']} |" in card
    assert f"| fingerprint of the documents | `{stage.inputs()['documents']}` |" in card and "MS MARCO" in card
    assert stage.config.start not in card and "best of" not in card  # there was one validation to choose from
    assert "base_model" not in card  # a folder's path is no name on the hub
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")


@pytest.mark.parametrize(("settings", "said"), [
    ({}, "| loss | Eq. 5 + 1.0 x Eq. 6 (sign paper, activation identity, negative pair query_query, margin 0.0), negatives asked at "
         "r = 0.0 of"),
    ({"negative": "other_document"}, "margin 0.0), as n another document's positive query, a placebo of"),
    ({"round_trip": 3, "search": "cached"}, "| `round_trip` | 3 |\n| `search` | cached |\n"),
    ({"w_mr": 0.0}, "| loss | Eq. 5 alone (positives only) of"),
    ({"w_mr": 0.0, "graded": 2}, "| loss | Eq. 5 + 1.0 x the order of 2 further queries a document by r of"),
    ({"w_mr": 0.0, "mined": 4, "mined_by": "negative"}, "alone (positives only), 4 documents a query mined by the negative of"),
])
def test_the_card_says_what_was_trained_on(saved, settings, said):
    stage, _, folder = saved
    config = type(stage.config).model_validate({**stage.config.model_dump(), **settings})
    assert said in model_card(config, read_verdict(folder)[0], {}, {}, 2, {"stage": "generate"})


def test_the_card_says_how_the_queries_were_made(saved):
    stage, _, folder = saved
    made = {"stage": "generate", "versions": {"readqg": "9.9"}, "models": {"prompts": "abc"},
            "config": {"relevances": [1.0, 0.0], "decoding": "top_k", "shard_rows": 4}}
    card = model_card(stage.config, read_verdict(folder)[0], {}, {}, 2, made)
    assert "| queries made by | `readqg generate`, version 9.9, relevances 1.0 0.0, decoding top_k |" in card
    assert "| fingerprint of the queries' prompts | `abc` |" in card
    _, front, _ = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "other"


def test_the_folder_carries_the_weight_of_bm25_learned_on_the_held_out_documents(saved):
    from readqg.fusion import best_weight, learned_weight

    stage, model, folder = saved
    held_out, encoded = stage._held_out, stage._held_out_pairs
    logits = stage._scorer.without_gradient(model, encoded, range(len(encoded.input_ids)))
    scores = np.split(logits, np.cumsum([len(ids) for ids in held_out.candidates])[:-1])
    sources = [ids.index(source) for source, ids in zip(held_out.doc_ids, held_out.candidates, strict=True)]
    assert [len(first) for first in held_out.first] == [len(ids) for ids in held_out.candidates]
    assert learned_weight(folder) == best_weight(scores, held_out.first, sources)
    assert json.loads((folder / "readqg.json").read_text())["held_out_documents"] == len(held_out.doc_ids)
