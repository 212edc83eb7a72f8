"""Writing queries against `model.generate`: batches of 32 in the order of the corpus, and sorted with the best batch size.

    python -m tests.benchmarks.bench_generation --data ../shared/data/scifact
    python -m tests.benchmarks.bench_generation --backbone flan-t5-shaped

Both write greedily for r = 1 and r = 0 from the same prompts; the tokens must be the same in float32. `flan-t5-shaped` is a model of
Flan-T5-base's size with random weights, so its queries run to their full length.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import StoppingCriteriaList, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from readqg import devices, sample
from readqg.config import SMOLLM2, Compute, GenerateSettings, GeneratorSettings
from readqg.corpus import Documents, subset
from readqg.generator.backbone import Backbone
from readqg.generator.decoding import QueryEnds, QueryWriter
from readqg.generator.model import Generator, padded
from readqg.generator.prompts import SoftPrompt
from tests.benchmarks.timing import machine, paired, seconds
from tests.builders import t5_tokenizer

Rows = list[tuple[list[int], float]]


def main() -> None:
    args = _args()
    torch.set_num_threads(args.threads)
    device, dtype = devices.device_and_dtype(Compute())
    generator = _generator(args.backbone, device, dtype)
    documents = Documents.open(args.data)
    chosen = subset(documents.ids, args.documents)
    ids = [generator.document_ids(text, args.document_tokens) for text in documents.texts(chosen)]
    settings = GenerateSettings(decoding="greedy", document_tokens=args.document_tokens, max_new_tokens=args.max_new_tokens,
                                batch_tokens=args.batch_tokens)
    writer = QueryWriter(generator, settings)
    rows = [(row, r) for row in ids for r in (1.0, 0.0)]
    by_length = sorted(rows, key=lambda row: -len(row[0]))
    print(f"{machine()}\n{len(ids)} documents, {sum(map(len, ids)) / len(ids):.0f} tokens each, {device.type}, {dtype}")

    def ours() -> None:
        writer.write([(str(i), row) for i, row in enumerate(ids)])

    size = min(args.batches, key=lambda n: seconds(lambda: _plain(generator, by_length[: args.warm], n, args.max_new_tokens)))
    own = [(query.text, query.n_tokens) for query in writer.write([(str(i), row) for i, row in enumerate(ids)])]
    theirs = _plain(generator, rows, 32, args.max_new_tokens)
    print(f"{sum(a == b for a, b in zip(own, theirs, strict=True))} of {len(theirs)} queries have the same text and number of tokens")
    paired("batch 32, unsorted", lambda: _plain(generator, rows, 32, args.max_new_tokens), ours, args.runs)
    paired(f"sorted, batch {size}", lambda: _plain(generator, by_length, size, args.max_new_tokens), ours, args.runs)


def _generator(name: str, device: torch.device, dtype: torch.dtype) -> Generator:
    if name != "flan-t5-shaped":
        return Generator.load(name, sample.prompts_folder(), device, dtype)
    backbone = Backbone.load(shaped_like_flan_t5(), device, dtype)
    return Generator(backbone, SoftPrompt.initial(backbone, GeneratorSettings())).eval()


def shaped_like_flan_t5() -> Path:
    """A folder with a model of Flan-T5-base's size and random weights."""
    folder = Path(tempfile.mkdtemp())
    tokenizer = t5_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(32128 - len(tokenizer))])  # or the random model would write nothing to be seen
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(vocab_size=32128, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_decoder_layers=12, num_heads=12,
                      feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@torch.inference_mode()
def _plain(generator: Generator, rows: Rows, size: int, max_new_tokens: int) -> list[tuple[str, int]]:
    """Text and number of tokens of each query, by the library's own decoding in batches of `size`. A row goes on until its query ends
    as ours does, its batch until all rows have."""
    lm, queries, ends_lines = generator.backbone.lm, [], generator.kind == "decoder-only"
    ends = QueryEnds(generator.tokenizer, [generator.backbone.end_id], ends_lines, generator.device)
    for start in range(0, len(rows), size):
        batch = rows[start:start + size]
        ids, mask = padded([row for row, _ in batch], 0)
        embeddings, mask = generator.embed_documents(ids, mask, torch.tensor([r for _, r in batch]))
        how = {"max_new_tokens": max_new_tokens, "do_sample": False, "attention_mask": mask, "pad_token_id": generator.backbone.end_id,
               "stopping_criteria": StoppingCriteriaList([ends])}
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
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--document-tokens", type=int, default=384)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--warm", type=int, default=16, help="rows to choose the baseline's batch by")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
