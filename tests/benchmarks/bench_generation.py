"""Writing queries against `model.generate`: batches of 32 in the order of the corpus, and sorted with the best batch size.

    python -m tests.benchmarks.bench_generation --data ../shared/data/scifact
    python -m tests.benchmarks.bench_generation --backbone flan-t5-shaped

All write greedily for r = 1 and r = 0 from the same prompts. The first baseline is what a user gets, in float32; the second takes the
precision that the device has natively, which is ours, and the best of some batch sizes. Whether the tokens are the same is looked at in
float32 on both sides, before anything is timed.

`flan-t5-shaped` is a model of Flan-T5-base's size with random weights. Its documents are as many random tokens long as SmolLM2's tokenizer
makes of them, and since such a model ends no query, a row ends, for all sides, after as many tokens as the query that SmolLM2 writes for
it has.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from readqg import devices, sample
from readqg.config import SMOLLM2, Compute, GenerateSettings, GeneratorSettings
from readqg.corpus import Documents, subset
from readqg.generator import decoding
from readqg.generator.backbone import Backbone
from readqg.generator.decoding import QueryEnds, QueryWriter
from readqg.generator.model import Generator, padded
from readqg.generator.prompts import SoftPrompt
from readqg.generator.sampling import Greedy
from tests.benchmarks.timing import machine, paired, seconds
from tests.builders import t5_tokenizer

Rows = list[tuple[list[int], float]]
_SHAPED = "flan-t5-shaped"
_VOCABULARY = 32128


def main() -> None:
    args = _args()
    torch.set_num_threads(args.threads)
    device, dtype = devices.device_and_dtype(Compute())
    documents = Documents.open(args.data)
    texts = documents.texts(subset(documents.ids, args.documents))
    settings = GenerateSettings(decoding="greedy", document_tokens=args.document_tokens, max_new_tokens=args.max_new_tokens,
                                batch_tokens=args.batch_tokens)
    plain, ids, ends = _inputs(args, texts, settings, device)
    fast = _generator(args.backbone, device, dtype) if dtype != torch.float32 else plain
    rows = [(row, r) for row in ids for r in (1.0, 0.0)]
    by_length = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
    print(f"{machine()}\n{len(ids)} documents, {sum(map(len, ids)) / len(ids):.0f} tokens each, {device.type}, {dtype}", flush=True)
    works = [(str(i), row) for i, row in enumerate(ids)]

    def library(generator: Generator, order: Sequence[int], size: int) -> list[tuple[str, int]]:
        return _plain(generator, [rows[i] for i in order], size, args.max_new_tokens, None if ends is None else [ends[i] for i in order])

    own = [(query.text, query.n_tokens) for query in _writer(plain, settings, ends).write(works)]
    theirs = library(plain, range(len(rows)), 32)
    same = sum(a == b for a, b in zip(own, theirs, strict=True))
    print(f"{same} of {len(theirs)} queries have the same text and number of tokens in float32", flush=True)
    writer = _writer(fast, settings, ends)
    some = by_length[:: max(1, len(by_length) // args.warm)]
    size = min(args.batches, key=lambda n: seconds(lambda: library(fast, some, n)))
    writer.write(works)
    paired("batch 32, unsorted, float32", lambda: library(plain, range(len(rows)), 32), lambda: writer.write(works), args.runs)
    paired(f"sorted, batch {size}, {dtype}", lambda: library(fast, by_length, size), lambda: writer.write(works), args.runs)


def _inputs(
    args: argparse.Namespace, texts: list[str], settings: GenerateSettings, device: torch.device,
) -> tuple[Generator, list[list[int]], list[int] | None]:
    """The generator in float32, the documents' tokens, and where rows end of themselves: None for a model that ends them."""
    real = _generator(SMOLLM2 if args.backbone == _SHAPED else args.backbone, device, torch.float32)
    ids = [real.document_ids(text, args.document_tokens) for text in texts]
    if args.backbone != _SHAPED:
        return real, ids, None
    written = QueryWriter(real, settings).write([(str(i), row) for i, row in enumerate(ids)])
    shaped = _generator(_SHAPED, device, torch.float32)
    drawn = torch.Generator().manual_seed(0)
    random = [torch.randint(100, _VOCABULARY, (len(row),), generator=drawn).tolist() for row in ids]
    return shaped, random, [query.n_tokens for query in written]


def _generator(name: str, device: torch.device, dtype: torch.dtype) -> Generator:
    if name != _SHAPED:
        return Generator.load(name, sample.prompts_folder(), device, dtype)
    backbone = Backbone.load(shaped_like_flan_t5(), device, dtype)
    return Generator(backbone, SoftPrompt.initial(backbone, GeneratorSettings())).eval()


def shaped_like_flan_t5() -> Path:
    """A folder with a model of Flan-T5-base's size and random weights, under which what is written hangs on the document."""
    folder = Path(tempfile.mkdtemp())
    tokenizer = t5_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(_VOCABULARY - len(tokenizer))])  # or the random model would write nothing to be seen
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(vocab_size=_VOCABULARY, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_decoder_layers=12, num_heads=12,
                      feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        model.shared.weight.mul_(0.1)  # or every token would predict itself
        model.shared.weight[:len(tokenizer.all_special_ids)] = 0  # or the first, which begins a query and cannot be seen, would
    model.save_pretrained(folder)
    return folder


def _writer(generator: Generator, settings: GenerateSettings, ends: list[int] | None) -> QueryWriter:
    return QueryWriter(generator, settings) if ends is None else _EndingWriter(generator, settings, ends)


class _EndingWriter(QueryWriter):
    """Ours, but row i (its document's number, doubled, and 1 more at r = 0) ends after `ends[i]` tokens."""

    def __init__(self, generator: Generator, settings: GenerateSettings, ends: list[int]) -> None:
        super().__init__(generator, settings)
        self._wanted = ends

    def _step_by_step(self, items: list[Any]) -> tuple[Tensor, Tensor]:
        wanted = torch.tensor([self._wanted[2 * int(item.doc_id) + (item.relevance == 0)] for item in items])

        class EndingGreedy(Greedy):
            def choose(self, scores: Tensor, rows: Tensor, step: int) -> Tensor:
                return torch.where(wanted[rows] == step + 1, self.end_id, super().choose(scores, rows, step))

        with mock.patch.object(decoding, "Greedy", EndingGreedy):
            return super()._step_by_step(items)


class _EndAt(LogitsProcessor):
    """The same for the library's: nothing but the end is left to a row that has as many tokens as it shall have."""

    def __init__(self, wanted: list[int], end_id: int) -> None:
        self._wanted, self._end_id, self._step = torch.tensor(wanted), end_id, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._step += 1
        scores[self._wanted == self._step, self._end_id] = torch.finfo(scores.dtype).max
        return scores


@torch.inference_mode()
def _plain(generator: Generator, rows: Rows, size: int, max_new_tokens: int, wanted: list[int] | None) -> list[tuple[str, int]]:
    """Text and number of tokens of each query, by the library's own decoding in batches of `size`. A row goes on until its query ends
    as ours does, or has `wanted[i]` tokens, its batch until all rows have."""
    lm, queries, ends_lines = generator.backbone.lm, [], generator.kind == "decoder-only"
    ends = QueryEnds(generator.tokenizer, [generator.backbone.end_id], ends_lines, generator.device)
    for start in range(0, len(rows), size):
        batch = rows[start:start + size]
        ids, mask = padded([row for row, _ in batch], 0)
        embeddings, mask = generator.embed_documents(ids, mask, torch.tensor([r for _, r in batch]))
        how: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "do_sample": False, "attention_mask": mask, "pad_token_id": generator.backbone.end_id,
            "stopping_criteria": StoppingCriteriaList([ends])}
        if wanted is not None:
            how["logits_processor"] = LogitsProcessorList([_EndAt(wanted[start:start + size], generator.backbone.end_id)])
        if generator.kind == "encoder-decoder":
            memory = lm.get_encoder()(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
            tokens = lm.generate(encoder_outputs=BaseModelOutput(last_hidden_state=memory), **how)[:, 1:]
        else:
            tokens = lm.generate(inputs_embeds=embeddings, **how)
        for row, length in zip(tokens.tolist(), ends.lengths(tokens).tolist(), strict=True):
            text = generator.tokenizer.decode(row[:length], skip_special_tokens=True).strip()
            queries.append((" ".join((text.partition("\n")[0] if ends_lines else text).split()), length))
    return queries


def _args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/scifact")
    parser.add_argument("--backbone", default=SMOLLM2, help="a folder, a name, or flan-t5-shaped")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--document-tokens", type=int, default=384)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--warm", type=int, default=64, help="rows to choose the baseline's batch by, of all lengths")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
