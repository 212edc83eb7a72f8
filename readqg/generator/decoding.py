"""Writing queries with a generator (section 3): greedy, beam search, or top-k sampling with keyed noise.

Greedy and sampled tokens come from `stepping`, beams from the library's `generate`. Both are given the model's own logits, with
none of the filters that a model's generation settings may ask for; a choice of token that is a function of the query's own key
(`sampling`); and an end.
A query ends with the end token. A decoder-only backbone may instead go on to a new line, which prompts trained on one-line
queries do not ask for: there the first line break after some text ends the query too, and only that line is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from readqg.batching import run_batches, token_batches, tokens_for
from readqg.config import GenerateSettings, make
from readqg.generator.losses import IGNORED
from readqg.generator.model import Generator, padded
from readqg.generator.sampling import FailedItems, Greedy, KeyedTopK, row_key
from readqg.generator.stepping import decode

Document = tuple[str, Sequence[int]]
"""doc_id and token ids, without special tokens."""

_SAMPLES_TOGETHER = 8


@dataclass(frozen=True)
class Query:
    """A query written for a document. With an `error`, `text`, `log_likelihood` and `n_tokens` are None.

    `log_likelihood`: S(q | d, r) in nats of the tokens written, under the model's own distribution (no filter, temperature 1).
    `n_tokens`: how many those are. Both count the token that ended the query, if one did before `max_new_tokens` were written."""

    doc_id: str
    relevance: float
    sample: int
    text: str | None = None
    log_likelihood: float | None = None
    n_tokens: int | None = None
    error: str | None = None


def write_queries(generator: Generator, documents: Sequence[Document], relevances: Sequence[float], samples: int,
                  settings: GenerateSettings) -> list[Query]:
    """`samples` queries for every document at every relevance, in the order document, relevance, sample; the other
    settings as given. Raises `ConfigError` where samples and decoding do not go together."""
    asked = {"relevances": tuple(relevances), "samples": samples}
    return QueryWriter(generator, make(type(settings), settings.model_dump(), asked)).write(documents)


class QueryWriter:
    """Writes queries in length-sorted batches of at most `settings.batch_tokens` tokens: prompts, document, query, padding,
    times the beams. After a call, `last_halvings` says how often running out of memory halved that budget."""

    def __init__(self, generator: Generator, settings: GenerateSettings) -> None:
        self.generator, self.settings = generator, settings
        self.last_halvings = 0
        lm, backbone = generator.backbone.lm, generator.backbone
        end_ids = _end_ids(generator)
        lm.generation_config = GenerationConfig(  # instead of the model's own, which may filter
            eos_token_id=end_ids, pad_token_id=_or(generator.tokenizer.pad_token_id, backbone.end_id),
            decoder_start_token_id=getattr(lm.config, "decoder_start_token_id", None),
        )
        self._ends = QueryEnds(generator.tokenizer, end_ids, one_line=generator.kind == "decoder-only", device=backbone.device)

    def write(self, documents: Sequence[Document]) -> list[Query]:
        """In the order document, relevance, sample. A document without tokens, a query without text and a row whose logits
        are not finite have an `error`; the others go on."""
        settings = self.settings
        # The samples of a beam search come out of one search; others share a prefix, as many as memory surely has room for.
        together = settings.samples if settings.decoding == "beam" else min(settings.samples, _SAMPLES_TOGETHER)
        asked = [
            _Item(doc_id, ids, relevance, range(first, min(first + together, settings.samples)))
            for (doc_id, ids), relevance, first in product(documents, settings.relevances, range(0, settings.samples, together))
        ]
        todo = [item for item in asked if item.token_ids]
        added = self.generator.added_tokens + settings.max_new_tokens
        rows = [settings.beams if settings.decoding == "beam" else len(item.samples) for item in todo]
        lengths = [(len(item.token_ids) + added) * count for item, count in zip(todo, rows, strict=True)]
        written, self.last_halvings = run_batches(
            lengths, settings.batch_tokens, lambda rows: self._batch([todo[i] for i in rows])
        )
        results = iter(written)
        per_item = [next(results) if item.token_ids else item.failed("the document has no text") for item in asked]
        return [query for queries in per_item for query in queries]

    @torch.inference_mode()
    def _batch(self, items: list[_Item]) -> list[list[Query]]:
        write = self._beam_search if self.settings.decoding == "beam" else self._step_by_step
        tokens, log_likelihoods = write(items)
        rows = zip(tokens.tolist(), self._ends.lengths(tokens).tolist(), log_likelihoods.tolist(), strict=True)
        return [[self._query(item, sample, *next(rows)) for sample in item.samples] for item in items]

    def _step_by_step(self, items: list[_Item]) -> tuple[Tensor, Tensor]:
        """Greedy or top-k: tokens (N, T) and log-likelihoods (N,), NaN where logits were not finite."""
        end_id = self.generator.backbone.end_id
        choose = Greedy(end_id)
        if self.settings.decoding == "top_k":
            keys = [row_key(self.settings.seed, item.doc_id, item.relevance, sample) for item in items for sample in item.samples]
            choose = KeyedTopK(end_id, keys, self.settings.top_k, self.settings.temperature)
        # Writing wants many rows, whose tokens share one reading of the weights; reading wants few tokens at once on a CPU.
        lengths = [len(item.token_ids) + self.generator.added_tokens for item in items]
        batches = token_batches(lengths, tokens_for(self.generator.device, self.settings.batch_tokens))
        encodings = [self.generator.encode(*_documents([items[i] for i in batch])) for batch in batches]
        row_of = {i: row for row, i in enumerate(chain.from_iterable(batches))}
        index = torch.tensor([row_of[i] for i, item in enumerate(items) for _ in item.samples])
        tokens, log_probs = decode(self.generator, encodings, index, choose, self._ends.ended, self.settings.max_new_tokens)
        return tokens, log_probs.double().masked_fill(~self._ends.within(tokens), 0.0).sum(dim=1)

    def _beam_search(self, items: list[_Item]) -> tuple[Tensor, Tensor]:
        """The best sequences of every item (length penalty 1, as the library has it), best first: tokens (N * samples, T) and
        log-likelihoods (N * samples,), teacher forced and without any penalty; NaN where logits were not finite."""
        samples, documents = len(items[0].samples), _documents(items)
        guard = FailedItems(self.generator.backbone.end_id, self.settings.beams)
        tokens = self._generate(guard, documents, samples)
        labels = tokens.masked_fill(~self._ends.within(tokens), IGNORED)
        index = torch.arange(len(items)).repeat_interleave(samples)
        log_probs = self.generator.token_log_likelihoods(self.generator.encode(*documents), index, labels)
        assert guard.failed is not None
        return tokens, log_probs.double().sum(dim=1).masked_fill(guard.failed.repeat_interleave(samples), torch.nan)

    def _generate(self, processor: Any, documents: tuple[Tensor, Tensor, Tensor], samples: int) -> Tensor:
        """The tokens written by beam search, (rows, T), padded after their end."""
        generator, lm = self.generator, self.generator.backbone.lm
        how = {"max_new_tokens": self.settings.max_new_tokens, "do_sample": False, "num_beams": self.settings.beams,
               "num_return_sequences": samples, "logits_processor": LogitsProcessorList([processor]),
               "stopping_criteria": StoppingCriteriaList([self._ends])}
        if generator.kind == "encoder-decoder":
            encoded = generator.encode(*documents)
            memory = BaseModelOutput(last_hidden_state=encoded.states)
            return lm.generate(encoder_outputs=memory, attention_mask=encoded.mask, **how)[:, 1:]  # less the start token
        embeddings, mask = generator.embed_documents(*documents)
        return lm.generate(inputs_embeds=embeddings, attention_mask=mask, **how)

    def _query(self, item: _Item, sample: int, tokens: list[int], length: int, log_likelihood: float) -> Query:
        if log_likelihood != log_likelihood:
            return Query(item.doc_id, item.relevance, sample, error="the model's logits are not finite")
        text = str(self.generator.tokenizer.decode(tokens[:length], skip_special_tokens=True))
        if self.generator.kind == "decoder-only":
            text = text.strip().partition("\n")[0]
        text = " ".join(text.split())
        if not text:
            return Query(item.doc_id, item.relevance, sample, error="the model wrote nothing")
        return Query(item.doc_id, item.relevance, sample, text, log_likelihood, length)


@dataclass(frozen=True)
class _Item:
    """One row of a batch: a document, a relevance, and the samples that come of decoding it once."""

    doc_id: str
    token_ids: Sequence[int]
    relevance: float
    samples: range

    def failed(self, error: str) -> list[Query]:
        return [Query(self.doc_id, self.relevance, sample, error=error) for sample in self.samples]


def _documents(items: Sequence[_Item]) -> tuple[Tensor, Tensor, Tensor]:
    """Their ids (B, S), mask (B, S) and relevance (B,), as `Generator.encode` takes them."""
    ids, mask = padded([item.token_ids for item in items], 0)
    return ids, mask, torch.tensor([item.relevance for item in items], dtype=torch.float32)


class QueryEnds(StoppingCriteria):
    """Where a query ends: at an end token and, with `one_line`, at the first line break after some text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int], one_line: bool, device: torch.device) -> None:
        texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=True) if one_line else []

        def ids(kept: list[bool]) -> Tensor:
            return torch.tensor([i for i, keep in enumerate(kept) if keep], dtype=torch.long, device=device)

        self._end_ids = torch.tensor(end_ids, device=device)
        self._breaks = ids(["\n" in text for text in texts])
        self._breaks_after_text = ids(["\n" in text.lstrip() for text in texts])
        self._blank = ids([not text.strip() for text in texts])

    def _at(self, tokens: Tensor) -> Tensor:
        """(N, T) bool: a query would end here."""
        has_text = (~torch.isin(tokens, self._blank)).cumsum(dim=1)
        text_before = torch.nn.functional.pad(has_text[:, :-1], (1, 0)) > 0
        line_ends = torch.isin(tokens, self._breaks_after_text) | torch.isin(tokens, self._breaks) & text_before
        return torch.isin(tokens, self._end_ids) | line_ends

    def lengths(self, tokens: Tensor) -> Tensor:
        """Of the queries in tokens (N, T): (N,), the token that ends them included."""
        at = self._at(tokens)
        return torch.where(at.any(dim=1), at.int().argmax(dim=1) + 1, tokens.shape[1])

    def within(self, tokens: Tensor) -> Tensor:
        """(N, T) bool: which tokens belong to their query."""
        return torch.arange(tokens.shape[1], device=tokens.device) < self.lengths(tokens)[:, None]

    def ended(self, tokens: Tensor) -> Tensor:
        """(N,) bool: the query ends with the last of tokens (N, t)."""
        return self._at(tokens)[:, -1]

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return self.ended(input_ids)


def _end_ids(generator: Generator) -> list[int]:
    """The end token queries are trained with, and whatever else the model's own settings name as one."""
    own = generator.backbone.lm.generation_config.eos_token_id
    named = own if isinstance(own, list) else [] if own is None else [own]
    return sorted({generator.backbone.end_id, *named})


def _or(value: int | None, other: int) -> int:
    return other if value is None else value
