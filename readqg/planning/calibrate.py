"""Rates of this machine, from a minute's work on a few documents of the corpus with the models of the run."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from readqg import devices, models, sample
from readqg.batching import tokens_for
from readqg.config import RetrieveSettings, RunConfig
from readqg.corpus import Documents, read_texts, subset
from readqg.crossencoder import CrossEncoderScorer, load_model
from readqg.errors import InputError
from readqg.generator.backbone import Backbone
from readqg.generator.decoding import QueryWriter
from readqg.generator.model import Generator
from readqg.generator.prompts import SoftPrompt
from readqg.planning.machine import Rates
from readqg.planning.work import Corpus
from readqg.reranker.scoring import TrainingScorer, keep_head_in_float32
from readqg.retrieval import Bm25
from readqg.tokenizing import PairTokenizer

log = logging.getLogger("readqg")

_SAMPLED = 400  # documents whose lengths are taken
_SEARCHED = 2000
_START_S = 8.0  # Ray's worker processes; the models are loaded and timed here
_STEP_S = 0.3  # of a step, beside what is timed here
_PAIRS = 24


@dataclass(frozen=True)
class Calibration:
    corpus: Corpus
    rates: Rates
    generator_parameters: int
    scorer_parameters: int
    """Without embeddings."""
    scorer_bytes: int
    """All weights in float32."""
    kept_bytes: tuple[float, float]
    """What a forward pass through the cross-encoder keeps, for the backward one, of a token, and of a token and another of its pair."""


def calibrate(config: RunConfig, corpus: str, measure: bool = True) -> Calibration:
    """Lengths and counts of `corpus`, an imported folder; with `measure`, this machine's rates too, else only the models' sizes are
    read and the rates mean nothing. Raises `InputError` for a corpus that cannot be read, `ModelError` for the models."""
    documents = Documents.open(corpus)
    chosen = subset(documents.ids, _SAMPLED)
    texts = documents.texts(chosen)
    queries = _queries(corpus)
    prompts = SoftPrompt.load(config.prompts or sample.prompts_folder())
    backbone = config.backbone or prompts.facts.base_model
    device, dtype = devices.device_and_dtype(config.compute) if measure else (torch.device("cpu"), torch.float32)
    devices.set_threads(config.compute)
    began = time.monotonic()
    generator = Generator(Backbone.load(backbone, device if measure else "meta", dtype), prompts).eval()
    scorer = CrossEncoderScorer(models.resolve(config.start), config.rank.max_length, config.rank.batch_tokens, device, dtype)
    load_s = (time.monotonic() - began) / 2
    ids = [generator.document_ids(text, 1_000_000) for text in texts]
    lengths = tuple(len(row) for row in ids)
    if not any(lengths):
        raise InputError(f"{corpus}: the documents have no text.")
    query_tokens = statistics.mean(len(generator.tokenizer(q)["input_ids"]) for q in queries[:_SAMPLED]) if queries else 10.0
    written = 16.0
    rates = Rates(1, 1, 1, 1, 1, 1, 1, 1, "none")
    if measure:
        log.info("Measuring this machine's rates: about a minute of writing, scoring and training")
        _warn_if_busy()
        read_s, write_s, written = _time_generate(generator, config, [row for row in ids if row])
        score_s = _time_scoring(scorer, texts, queries)
        train_s = _time_training(config, scorer, texts, queries)
        import_s, search_s = _time_search(documents, chosen, queries)
        rates = Rates(read_s, write_s, score_s, train_s, import_s, search_s, _STEP_S, _START_S + load_s,
                      f"measured on this machine ({torch.get_num_threads()} threads, {device.type}, {str(dtype).removeprefix('torch.')})")
    facts = Corpus(
        documents=documents.rows, lengths=lengths, text_bytes=statistics.mean(len(text.encode()) for text in texts),
        queries=len(queries), query_tokens=query_tokens, written_tokens=written, prompt_tokens=generator.added_tokens,
    )
    body = [p.numel() for p in scorer.model.parameters()]
    return Calibration(
        facts, rates, _without_embeddings(generator.backbone.lm), _without_embeddings(scorer.model), 4 * sum(body),
        _kept_bytes(scorer.model.config))


def _kept_bytes(model: Any) -> tuple[float, float]:
    """In all layers, of a token, and of a token and another that it attends to (where attention's weights are written out, as in training
    on a CPU): Korthikanti et al. (2022), Eq. 1, for elements of four bytes instead of two, as autocast keeps most of them in both
    precisions. It is BERT's count; the last layer, of which less is kept, counts as one of the others."""
    sizes = model.get_text_config()
    return 2.0 * sizes.num_hidden_layers * 34 * sizes.hidden_size, 2.0 * sizes.num_hidden_layers * 5 * sizes.num_attention_heads


def _warn_if_busy() -> None:
    load, cores = 0.0, os.cpu_count() or 1  # both of the whole machine, whatever part of it is ours
    with suppress(OSError, AttributeError):  # not everywhere
        load = os.getloadavg()[0]
    if load > cores:
        log.warning("This machine is busy (load %.1f on %d cores): alone, a run may be quicker than what follows.", load, cores)


def _queries(corpus: str) -> list[str]:
    try:
        return list(read_texts(corpus).values())
    except InputError:
        return []


def _without_embeddings(model: Any) -> int:
    """Parameters that a token is multiplied by: all but the tables that it is looked up in, and the head where it is one of them."""
    held = sum(p.numel() for p in model.parameters())
    tables = {p for module in model.modules() if isinstance(module, torch.nn.Embedding) for p in module.parameters()}
    return held - sum(p.numel() for p in tables)


def _time_generate(generator: Generator, config: RunConfig, ids: Sequence[Sequence[int]]) -> tuple[float, float, float]:
    """(tokens a second that the generator reads, that it writes, mean tokens of a written query)."""
    writer = QueryWriter(generator, config.generate)
    reader = QueryWriter(generator, config.generate.model_copy(update={"max_new_tokens": 1}))
    documents = [(str(i), row[: config.generate.document_tokens]) for i, row in enumerate(ids)]
    few = documents[:6] if generator.device.type == "cpu" else documents[:256]
    writer.write(few[:1])
    read_s, _ = _timed(lambda: reader.write(few))
    whole_s, queries = _timed(lambda: writer.write(few))
    written = statistics.mean(query.n_tokens or 0 for query in queries)
    read = len(config.generate.relevances) * sum(len(row) + generator.added_tokens for _, row in few)
    # The first token of a query comes with the reading; of very short ones the difference is noise.
    write_s = max(whole_s - read_s, 0.05 * whole_s) / max(1.0, (written - 1) * len(queries))
    return read / read_s, 1 / write_s, written


def _pairs(texts: Sequence[str], queries: Sequence[str]) -> list[tuple[str, str]]:
    queries = queries or ["what is said about this subject here"]
    return [(queries[i % len(queries)], text) for i, text in enumerate(texts)]


def _time_scoring(scorer: CrossEncoderScorer, texts: Sequence[str], queries: Sequence[str]) -> float:
    pairs = _pairs(texts, queries)[: _PAIRS if scorer.model.device.type == "cpu" else len(texts)]
    scorer.score(pairs[:2])
    seconds, _ = _timed(lambda: scorer.score(pairs))
    return scorer.last_tokens / seconds


def _time_training(config: RunConfig, scorer: CrossEncoderScorer, texts: Sequence[str], queries: Sequence[str]) -> float:
    """Tokens a second, forward and back with the optimizer's step, of one step's chosen pairs."""
    device, dtype = devices.device_and_dtype(config.compute)
    model = load_model(models.resolve(config.start), device).train()
    keep_head_in_float32(model)
    tokenize = PairTokenizer(models.resolve(config.start), config.reranker.max_length)
    training = TrainingScorer(tokenize, tokens_for(device, config.reranker.batch_tokens), dtype)
    encoded = tokenize(_pairs(texts, queries)[:10])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def step(rows: Sequence[int]) -> None:
        training.with_gradient(model, encoded, rows).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step([0, 1])
    seconds, _ = _timed(lambda: step(range(2, len(encoded.input_ids))))
    return sum(encoded.lengths[2:]) / seconds


def _time_search(documents: Documents, chosen: Sequence[str], queries: Sequence[str]) -> tuple[float, float]:
    """(documents a second read and indexed, queries a second)."""
    rows = documents.read(0, min(documents.rows, _SEARCHED)).to_pylist()
    asked = (queries or ["a query"])[:50]
    indexed_s, index = _timed(lambda: Bm25(rows, RetrieveSettings(top_k=10)))
    searched_s, _ = _timed(lambda: [index.search("", query) for query in asked])
    return len(rows) / indexed_s, len(asked) / max(searched_s, 1e-3)


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    value = function()
    return time.perf_counter() - began, value
