"""What sentence-transformers does with the same queries, to compare with: hard negatives that a bi-encoder mines, binary cross-entropy.

The positive queries that pass the filters are those of our training on positives alone, of the same documents; the same documents are
held out, from what is mined too, and judge the outcome. (With Eq. 6, ours leaves out documents without a usable negative query.) Needs
`datasets` and `accelerate`, and runs in this process.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import nn
from transformers import set_seed

from readqg import devices, models
from readqg.config import MiningSettings, RetrieveSettings, TrainRerankerConfig, identity
from readqg.corpus import Documents
from readqg.crossencoder import CrossEncoderScorer
from readqg.errors import ConfigError
from readqg.evaluation.encoder import BiEncoder
from readqg.reranker.card import write_model
from readqg.reranker.examples import Examples
from readqg.reranker.sampling import Filters, read_split
from readqg.reranker.selection import HeldOut, guard, write_learned_weights
from readqg.reranker.training import open_queries
from readqg.retrieval import Bm25
from readqg.score_text import mark, with_score, with_scores
from readqg.shards import OutputFolder
from readqg.tokenizing import load_tokenizer


def train_baseline(config: TrainRerankerConfig, mining: MiningSettings) -> dict[str, Any]:
    """Train into `config.out`, of whose settings those of `mining` take the place; returns what its `_SUCCESS` says.

    Raises `ConfigError` where a package is missing, `InputError` for inputs that cannot be used."""
    queries, documents = open_queries(config), Documents.open(config.documents)
    asked = {"reranker": identity(config), "mining": identity(mining)}
    used = {"start": models.fingerprint(config.start), "encoder": models.fingerprint(mining.encoder)}
    folder = OutputFolder.begin(
        config.out, "baseline", asked, {"queries": queries.fingerprint, "documents": documents.fingerprint}, used)
    if folder.done:
        return folder.success()
    trained, held_out, counts = read_split(queries, None, Filters.of(config), config.held_out_share, config.held_out_max)
    devices.set_threads(config.compute)
    held_out_ids = {doc_id for _, doc_id in held_out.doc_ids()}
    model, pairs = _train(config, mining, trained, documents, [doc_id for doc_id in documents.ids if doc_id not in held_out_ids])
    made = folder.tmp / "model"
    made.mkdir(parents=True)
    write_model(model, load_tokenizer(models.resolve(config.start)), made)
    judged = HeldOut.search(held_out.own_queries(), documents)
    to_judge = judged.pairs(documents)
    before = judged.judge(_scorer(models.resolve(config.start), config).score(to_judge))
    tuned = _scorer(str(made), config)
    if mining.bm25_as_text:
        to_judge = with_scores(to_judge, np.concatenate(judged.first).tolist(), tuned.tokenize.tokenizer.sep_token)
    after = judged.judge(tuned.score(to_judge))
    guard(before, after).write(made, config.start)
    write_learned_weights(made, before, after)
    if mining.bm25_as_text:
        mark(made)
    return folder.commit_files(
        made, {**counts, "labelled_pairs": pairs, "queries": len(trained.positives), "documents_trained": len(trained)})


def _train(
    config: TrainRerankerConfig, mining: MiningSettings, examples: Examples, documents: Documents, mined_from: list[str],
) -> tuple[Any, int]:
    """The trained model in float32, and the number of labelled pairs. `mined_from`: ids of the documents that may be negatives."""
    from sentence_transformers import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from sentence_transformers.util import mine_hard_negatives

    device, dtype = devices.device_and_dtype(config.compute)
    pairs = positive_pairs(examples, documents, "sentence_transformers")
    encoder = BiEncoder(models.resolve(mining.encoder), mining.pooling, config.max_length, config.batch_tokens, device, torch.float32)
    set_seed(config.seed)
    rows = mine_hard_negatives(
        pairs, encoder.model, corpus=documents.texts(mined_from), num_negatives=mining.negatives, range_min=mining.range_min,
        range_max=mining.range_max, relative_margin=mining.relative_margin, sampling_strategy=mining.sampling,
        output_format="labeled-pair", faiss_batch_size=1024, verbose=False)
    if mining.bm25_as_text:
        worded = _worded(rows, documents, str(load_tokenizer(models.resolve(config.start)).sep_token))
        rows = rows.remove_columns("document").add_column("document", worded).select_columns(rows.column_names)
    start = CrossEncoder(
        models.resolve(config.start), max_length=config.max_length, device=str(device), local_files_only=True, trust_remote_code=False,
        model_kwargs={"use_safetensors": True, "dtype": torch.float32}, activation_fn=nn.Identity())
    with tempfile.TemporaryDirectory(prefix="readqg-baseline-") as scratch:
        arguments = CrossEncoderTrainingArguments(
            output_dir=scratch, num_train_epochs=mining.epochs, per_device_train_batch_size=mining.batch,
            learning_rate=mining.learning_rate, warmup_steps=mining.warmup_share, seed=config.seed, bf16=dtype == torch.bfloat16,
            use_cpu=device.type == "cpu", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True)
        loss = BinaryCrossEntropyLoss(start, pos_weight=torch.tensor(float(mining.negatives)))
        CrossEncoderTrainer(model=start, args=arguments, train_dataset=rows, loss=loss).train()
    return start.model, len(rows)


def positive_pairs(examples: Examples, documents: Documents, trainer: str) -> Any:
    """A `datasets.Dataset` of every positive query with its document. Raises `ConfigError` where a package that `trainer` needs is
    missing."""
    try:
        import accelerate  # noqa: F401
        from datasets import Dataset
    except ImportError as error:
        raise ConfigError(f"trainer: {trainer} needs the package {error.name}: pip install datasets accelerate") from error
    positives = examples.rows.read(examples.positives.tolist())
    return Dataset.from_dict({"query": [row["query"] for row in positives],
                              "document": documents.texts([row["doc_id"] for row in positives])})


def _worded(rows: Any, documents: Documents, separator: str) -> list[str]:
    """Of rows (query, document, label): the documents with BM25's scores for their queries."""
    ids = dict(zip(documents.texts(documents.ids), documents.ids, strict=True))  # documents of one text score alike
    asked: dict[str, list[str]] = {}
    for query, text in zip(rows["query"], rows["document"], strict=True):
        asked.setdefault(query, []).append(ids[text])
    index = Bm25(documents, RetrieveSettings(), asked)
    scores = {query: iter(index.scores_of(query, found).tolist()) for query, found in asked.items()}
    return [with_score(text, next(scores[query]), separator) for query, text in zip(rows["query"], rows["document"], strict=True)]


def _scorer(folder: str, config: TrainRerankerConfig) -> CrossEncoderScorer:
    return CrossEncoderScorer(folder, config.max_length, config.batch_tokens, *devices.device_and_dtype(config.compute))
