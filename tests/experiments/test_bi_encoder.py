"""A bi-encoder trained on generated queries."""

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch.nn import Identity

from readqg.config import BiEncoderSettings
from readqg.evaluation.encoder import BiEncoder
from readqg.experiments import bi_encoder
from readqg.experiments.bi_encoder import train_bi_encoder
from readqg.reranker.training import RerankerTraining
from tests.builders import tiny_bi_encoder
from tests.reranker.corpus import DOCUMENTS, reranker_config


@pytest.mark.parametrize("loss", ["in_batch", "margin_mse"])
def test_it_trains_on_the_documents_that_our_training_takes(tmp_path, monkeypatch, loss):
    given = []
    train = bi_encoder._train
    monkeypatch.setattr(bi_encoder, "_train", lambda *args: given.append(args) or train(*args))
    config = reranker_config(tmp_path, held_out_share=0.25)
    settings = BiEncoderSettings(encoder=str(tiny_bi_encoder(tmp_path / "encoder")), loss=loss, range_max=6, batch=4, learning_rate=1e-3)
    success = train_bi_encoder(config, settings)
    ours = RerankerTraining(config)
    assert success["facts"]["queries"] == len(ours.batches.examples) == 9
    held_out = {doc_id for _, doc_id in ours._held_out_examples.doc_ids()}
    assert set(given[0][-1]) == DOCUMENTS.keys() - held_out, "no held-out document is a negative"
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (settings.encoder, config.out))
    assert before.keys() == after.keys() and any((before[name] != after[name]).any() for name in before)
    assert not [name for name in success["files"] if name.endswith((".bin", ".pt"))]
    vector = BiEncoder(config.out, "mean", 48, 1000, "cpu", torch.float32).encode(["the wing"])
    assert SentenceTransformer(config.out, device="cpu").encode(["the wing"]) == pytest.approx(vector, abs=1e-6)
    assert train_bi_encoder(config, settings) == success
    train_bi_encoder(config.model_copy(update={"out": str(tmp_path / "again")}), settings)
    assert load_file(f"{tmp_path}/again/model.safetensors").keys() == after.keys()
    assert all((load_file(f"{tmp_path}/again/model.safetensors")[name] == after[name]).all() for name in after)


def test_the_margins_are_the_starts_of_a_querys_own_document_over_the_drawn_one(tmp_path, monkeypatch):
    seen = {}

    class Trainer:
        def __init__(self, train_dataset, loss, **_):
            seen.update(rows=train_dataset.to_dict(), loss=loss)

        def train(self):
            """Nothing is learned."""

    monkeypatch.setattr("sentence_transformers.SentenceTransformerTrainer", Trainer)
    config = reranker_config(tmp_path, held_out_share=0.25)
    settings = BiEncoderSettings(encoder=str(tiny_bi_encoder(tmp_path / "encoder")), loss="margin_mse", range_max=6)
    train_bi_encoder(config, settings)
    rows, start = seen["rows"], CrossEncoder(config.start, device="cpu", max_length=48)
    own, other = (start.predict(list(zip(rows["query"], rows[name], strict=True)), activation_fn=Identity())
                  for name in ("document", "negative"))
    assert rows["label"] == pytest.approx((own - other).tolist(), abs=1e-5)
    assert all(a != b for a, b in zip(rows["document"], rows["negative"], strict=True))
    vectors = [BiEncoder(settings.encoder, "mean", 48, 1000, "cpu", torch.float32).encode(rows[name])
               for name in ("query", "document", "negative")]
    margins = 20 * ((vectors[0] * vectors[1]).sum(1) - (vectors[0] * vectors[2]).sum(1))
    features = [seen["loss"].model.preprocess(rows[name]) for name in ("query", "document", "negative")]
    assert float(seen["loss"](features, torch.tensor(rows["label"]))) == pytest.approx(((margins - (own - other)) ** 2).mean(), rel=1e-4)


def test_without_epochs_it_is_the_encoder_as_it_was(tmp_path):
    config = reranker_config(tmp_path, held_out_share=0.25)
    settings = BiEncoderSettings(encoder=str(tiny_bi_encoder(tmp_path / "encoder")), epochs=0)
    train_bi_encoder(config, settings)
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (settings.encoder, config.out))
    assert all((before[name] == after[name]).all() for name in before)
