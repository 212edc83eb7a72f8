"""A bi-encoder trained on the positive queries, to compare re-rankers with what searches the corpus itself.

The queries that pass the filters are those of our training on positives alone, of the same documents; the same documents are held out.
Needs `datasets` and `accelerate`, and runs in this process.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from sentence_transformers.util import pairwise_cos_sim
from transformers import set_seed

from readqg import devices, models
from readqg.config import BiEncoderSettings, TrainRerankerConfig, identity
from readqg.corpus import Documents
from readqg.crossencoder import CrossEncoderScorer
from readqg.evaluation.encoder import BiEncoder
from readqg.reranker.baseline import positive_pairs
from readqg.reranker.examples import Examples
from readqg.reranker.sampling import Filters, read_split
from readqg.reranker.training import open_queries
from readqg.shards import OutputFolder

_SCALE = 20.0
"""Of cosines, as `MultipleNegativesRankingLoss` has it: the start's scores differ by more than cosines can."""


def train_bi_encoder(config: TrainRerankerConfig, settings: BiEncoderSettings) -> dict[str, Any]:
    """Train into `config.out`, of whose settings those of `settings` take the place; returns what its `_SUCCESS` says.

    Raises `ConfigError` where a package is missing, `InputError` for inputs that cannot be used."""
    queries, documents = open_queries(config), Documents.open(config.documents)
    used = {"encoder": models.fingerprint(settings.encoder)}
    if settings.loss == "margin_mse":
        used["start"] = models.fingerprint(config.start)
    folder = OutputFolder.begin(
        config.out, "bi-encoder", {"reranker": identity(config), "bi_encoder": identity(settings)},
        {"queries": queries.fingerprint, "documents": documents.fingerprint}, used)
    if folder.done:
        return folder.success()
    trained, held_out, counts = read_split(queries, None, Filters.of(config), config.held_out_share, config.held_out_max)
    devices.set_threads(config.compute)
    device, _ = devices.device_and_dtype(config.compute)
    encoder = BiEncoder(models.resolve(settings.encoder), settings.pooling, config.max_length, config.batch_tokens, device, torch.float32)
    if settings.epochs:
        held_out_ids = {doc_id for _, doc_id in held_out.doc_ids()}
        _train(config, settings, encoder, trained, documents, [doc_id for doc_id in documents.ids if doc_id not in held_out_ids])
    made = folder.tmp / "model"
    encoder.model.save_pretrained(str(made), create_model_card=False)
    return folder.commit_files(made, {
        **counts, "queries": len(trained.positives), "documents_trained": len(trained) if settings.epochs else 0})


def _train(
    config: TrainRerankerConfig, settings: BiEncoderSettings, encoder: BiEncoder, examples: Examples, documents: Documents,
    drawn_from: list[str],
) -> None:
    """`drawn_from`: ids of the documents that may be negatives."""
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss, MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers
    from sentence_transformers.util import mine_hard_negatives

    device, dtype = devices.device_and_dtype(config.compute)
    rows = positive_pairs(examples, documents, "bi_encoder")
    set_seed(config.seed)
    loss: Any = MultipleNegativesRankingLoss(encoder.model, scale=_SCALE)
    if settings.loss == "margin_mse":
        rows = mine_hard_negatives(
            rows, encoder.model, corpus=documents.texts(drawn_from), num_negatives=1, range_max=settings.range_max,
            sampling_strategy="random", output_format="triplet", faiss_batch_size=1024, verbose=False)
        teacher = CrossEncoderScorer(models.resolve(config.start), config.max_length, config.batch_tokens, device, dtype)
        own, other = (teacher.score(list(zip(rows["query"], rows[name], strict=True))) for name in ("document", "negative"))
        rows = rows.add_column("label", (own - other).tolist())
        loss = MarginMSELoss(encoder.model, similarity_fct=lambda a, b: _SCALE * pairwise_cos_sim(a, b))
    with tempfile.TemporaryDirectory(prefix="readqg-bi-encoder-") as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch, num_train_epochs=settings.epochs, per_device_train_batch_size=settings.batch,
            learning_rate=settings.learning_rate, warmup_steps=settings.warmup_share, seed=config.seed, bf16=dtype == torch.bfloat16,
            use_cpu=device.type == "cpu", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
            batch_sampler=BatchSamplers.NO_DUPLICATES)  # or a document's other query would have it as a negative
        SentenceTransformerTrainer(model=encoder.model, args=arguments, train_dataset=rows, loss=loss).train()
