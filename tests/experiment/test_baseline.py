"""The baseline of sentence-transformers on generated queries."""

import pytest
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder

from readqg.config import MiningSettings
from readqg.fusion import learned_weight
from readqg.reranker import baseline
from readqg.reranker.baseline import train_baseline
from readqg.reranker.selection import read_verdict
from readqg.reranker.training import RerankerTraining
from tests.builders import tiny_bi_encoder
from tests.reranker.corpus import DOCUMENTS, reranker_config


def test_it_trains_on_the_documents_that_our_training_takes_and_is_judged_on_those_that_it_holds_out(tmp_path, monkeypatch):
    mined = []
    train = baseline._train
    monkeypatch.setattr(baseline, "_train", lambda *given: mined.append(given[-1]) or train(*given))
    config = reranker_config(tmp_path, held_out_share=0.25)
    mining = MiningSettings(encoder=str(tiny_bi_encoder(tmp_path / "encoder")), negatives=2, range_max=8, batch=4, learning_rate=1e-3)
    success = train_baseline(config, mining)
    ours = RerankerTraining(config)
    assert success["facts"]["queries"] == len(ours.batches.examples) == 9
    assert success["facts"]["labelled_pairs"] == 9 * 3, "every query with its document and two negatives"
    held_out = {doc_id for _, doc_id in ours._held_out_examples.doc_ids()}
    assert set(mined[0]) == DOCUMENTS.keys() - held_out, "no held-out document is a negative"
    verdict, start = read_verdict(config.out)
    assert (verdict.held_out_documents, start) == (len(ours._held_out_examples), config.start)
    assert 0 <= learned_weight(config.out) <= 2
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (config.start, config.out))
    assert before.keys() == after.keys() and any((before[name] != after[name]).any() for name in before)
    assert CrossEncoder(config.out, device="cpu").predict([("wing", "the wing")]).shape == (1,)
    assert train_baseline(config, mining) == success
    again = train_baseline(config.model_copy(update={"out": str(tmp_path / "again")}), mining)
    assert again["fingerprint"] == success["fingerprint"]
    assert {"config.json", "guard.json", "model.safetensors", "readqg.json", "tokenizer.json"} <= success["files"].keys()
    assert not [name for name in success["files"] if name.endswith((".bin", ".pt"))]


def test_a_range_that_holds_too_few_is_refused():
    with pytest.raises(ValueError, match="there are no 5 negatives"):
        MiningSettings(range_min=10, range_max=12)
