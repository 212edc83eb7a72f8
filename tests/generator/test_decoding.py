"""Queries are what the library would write, scored under the model itself, and the same whatever stands beside them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from readqg import batching
from readqg.config import GenerateSettings, GeneratorSettings, make
from readqg.errors import ConfigError
from readqg.generator import decoding as decoding_module
from readqg.generator import stepping
from readqg.generator.backbone import Backbone
from readqg.generator.decoding import Query, QueryEnds, QueryWriter, write_queries
from readqg.generator.model import Generator
from readqg.generator.prompts import SoftPrompt
from readqg.generator.sampling import Greedy, KeyedTopK, only, row_key
from tests.builders import llama_tokenizer, tiny_llama, tiny_t5

KINDS = ["t5", "llama-tied"]
TEXTS = ["the wing flow", "heat", "shock wave of the boundary layer in a longer text", "what is of the query", "x"]


def build(folder: Path, kind: str) -> Generator:
    maker = tiny_t5 if kind.startswith("t5") else tiny_llama
    backbone = Backbone.load(maker(folder, tied=kind.endswith("tied")))
    return Generator(backbone, SoftPrompt.initial(backbone, GeneratorSettings(n_relevance=2, n_instruction=3))).eval()


@pytest.fixture(scope="module", params=KINDS)
def generator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return build(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(params=["t5", "llama"])
def untied(request: pytest.FixtureRequest, tmp_path: Path) -> Generator:
    """One's own, to break: input embeddings and output layer are apart."""
    return build(tmp_path, request.param)


def documents(generator: Generator, texts: list[str] = TEXTS) -> list[tuple[str, list[int]]]:
    return [(f"d{i}", generator.document_ids(text, 64)) for i, text in enumerate(texts)]


def write(generator: Generator, texts: list[str] = TEXTS, **changes: Any) -> list[Query]:
    asked = {"max_new_tokens": 12, "decoding": "greedy", **changes}
    return QueryWriter(generator, make(GenerateSettings, asked)).write(documents(generator, texts))


class AsProcessor(LogitsProcessor):
    """A chooser of ours in the library's own decoding."""

    def __init__(self, chooser: Greedy) -> None:
        self.chooser, self.step = chooser, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens, _ = self.chooser(scores, torch.arange(len(scores)), self.step)
        self.step += 1
        return only(tokens, scores)


def plain_generate(generator: Generator, ids: list[int], relevance: float, **how: Any) -> torch.Tensor:
    """New tokens (T,) of the library's own decoding for one document, alone and unpadded; of a decoder-only model one line."""
    document = torch.tensor([ids]), torch.ones(1, len(ids)), torch.tensor([relevance])
    embeddings, mask = generator.embed_documents(*document)
    lm = generator.backbone.lm
    with torch.no_grad():
        if generator.kind == "decoder-only":
            how |= {"stop_strings": ["\n"], "tokenizer": generator.tokenizer}
            return lm.generate(inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=12, **how)[0]
        memory = lm.get_encoder()(inputs_embeds=embeddings, attention_mask=mask)
        memory = BaseModelOutput(last_hidden_state=memory.last_hidden_state)
        return lm.generate(encoder_outputs=memory, attention_mask=mask, max_new_tokens=12, **how)[0, 1:]


def expected(generator: Generator, ids: list[int], relevance: float, tokens: torch.Tensor) -> tuple[str, int, float]:
    """Text, number of tokens and log-likelihood of tokens cut after their end, teacher forced through the plain model."""
    stops = {generator.backbone.end_id}
    if generator.kind == "decoder-only":
        stops.add(generator.tokenizer.convert_tokens_to_ids("Ċ"))
    ends = [i for i, token in enumerate(tokens.tolist()) if token in stops]
    tokens = tokens[: ends[0] + 1] if ends else tokens
    lm = generator.backbone.lm
    embeddings, mask = generator.embed_documents(torch.tensor([ids]), torch.ones(1, len(ids)), torch.tensor([relevance]))
    with torch.no_grad():
        if generator.kind == "decoder-only":
            whole = torch.cat([embeddings, generator.backbone.embed(tokens[None])], dim=1)
            logits = lm(inputs_embeds=whole).logits[0, embeddings.shape[1] - 1 : -1]
        else:
            logits = lm(inputs_embeds=embeddings, attention_mask=mask, labels=tokens[None]).logits[0]
    log_probs = torch.log_softmax(logits, dim=-1).gather(1, tokens[:, None])
    text = generator.tokenizer.decode(tokens, skip_special_tokens=True)
    return " ".join(text.split()), len(tokens), float(log_probs.sum())


def assert_same(query: Query, of: tuple[str, int, float]) -> None:
    text, n_tokens, log_likelihood = of
    if not text:
        assert query.error == "the model wrote nothing"
        return
    assert (query.text, query.n_tokens, query.error) == (text, n_tokens, None)
    assert query.log_likelihood == pytest.approx(log_likelihood, abs=1e-4)


@pytest.mark.parametrize("how", [{"decoding": "greedy"}, {"decoding": "beam", "beams": 3}, {"decoding": "beam", "beams": 1}])
def test_queries_are_those_of_the_librarys_own_decoding(generator: Generator, how: dict[str, Any]) -> None:
    written = iter(write(generator, **how))
    for doc_id, ids in documents(generator):
        for relevance in (1.0, 0.0):
            query = next(written)
            assert (query.doc_id, query.relevance, query.sample) == (doc_id, relevance, 0)
            tokens = plain_generate(generator, ids, relevance, num_beams=how.get("beams", 1))
            assert_same(query, expected(generator, ids, relevance, tokens))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_are_the_keyed_draws_scored_without_filter_and_temperature(generator: Generator, temperature: float) -> None:
    texts = ["the wing flow of heat", "boundary layer"]
    written = write(generator, texts, decoding="top_k", top_k=30, temperature=temperature, samples=8, relevances=(0.3,), seed=5)
    documents_ = dict(documents(generator, texts))
    for query in written:
        ids = documents_[query.doc_id]
        chooser = KeyedTopK(generator.backbone.end_id, [row_key(5, query.doc_id, 0.3, query.sample)], 30, temperature)
        tokens = plain_generate(generator, ids, 0.3, logits_processor=LogitsProcessorList([AsProcessor(chooser)]))
        assert_same(query, expected(generator, ids, 0.3, tokens))


def test_the_token_that_ends_a_query_is_counted_and_scored(untied: Generator) -> None:
    head = untied.backbone.lm.get_output_embeddings().weight
    with torch.no_grad():
        head.zero_()  # every token is as likely as any other, so each costs log V
    written = write(untied, decoding="top_k", top_k=len(head), samples=30, max_new_tokens=40)
    queries = [q for q in written if q.error is None]
    for query in queries:
        assert query.log_likelihood == pytest.approx(-query.n_tokens * math.log(len(head)), rel=1e-5)
    assert any(q.n_tokens < 40 for q in queries) and any(q.n_tokens == 40 for q in queries)
    assert all(len(untied.tokenizer(q.text)["input_ids"]) > 0 for q in queries)


def test_the_samples_of_a_beam_search_are_its_best_sequences(generator: Generator) -> None:
    best = write(generator, decoding="beam", beams=4, samples=1)
    many = write(generator, decoding="beam", beams=4, samples=3)
    assert [q.sample for q in many[:6]] == [0, 1, 2, 0, 1, 2]
    assert [q.text for q in many if q.sample == 0] == [q.text for q in best]
    assert all(len({q.log_likelihood for q in many[i : i + 3]}) == 3 for i in range(0, len(many), 3))


def test_samples_differ_and_a_seed_repeats_them(generator: Generator) -> None:
    how = {"decoding": "top_k", "samples": 4}
    first = write(generator, **how)
    assert write(generator, **how) == first
    texts = {(q.doc_id, q.relevance): set() for q in first}
    for query in first:
        texts[query.doc_id, query.relevance].add(query.text)
    assert all(len(found) >= 3 for found in texts.values())
    assert sum(a.text == b.text for a, b in zip(first, write(generator, seed=1, **how), strict=True)) < len(first) / 4


def test_samples_share_a_prefix_and_are_what_each_alone_would_be(generator: Generator) -> None:
    how = {"decoding": "top_k", "temperature": 1.5, "max_new_tokens": 9}
    many = write(generator, samples=11, **how)  # more than are decoded together
    few = {(q.doc_id, q.relevance, q.sample): q for q in write(generator, samples=2, batch_tokens=1, **how)}
    assert len(many) == len(TEXTS) * 2 * 11
    for key, query in few.items():
        other = next(q for q in many if (q.doc_id, q.relevance, q.sample) == key)
        assert (other.text, other.n_tokens) == (query.text, query.n_tokens)
        assert other.log_likelihood == pytest.approx(query.log_likelihood, abs=1e-4)


def test_rows_that_have_ended_leave_and_change_nothing(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"decoding": "top_k", "temperature": 2.0, "top_k": 50, "samples": 6, "max_new_tokens": 40}
    left, keep_all = [], write(generator, **how)
    assert len({q.n_tokens for q in keep_all if q.error is None}) > 2, "rows end at different steps"
    monkeypatch.setattr(stepping, "_ENDED_SHARE", 2.0)
    assert [(q.text, q.n_tokens) for q in write(generator, **how)] == [(q.text, q.n_tokens) for q in keep_all]
    monkeypatch.setattr(stepping, "_ENDED_SHARE", 0.0)
    state = stepping._Prefixed if generator.kind == "decoder-only" else stepping._Encoded
    keep = state.keep
    monkeypatch.setattr(state, "keep", lambda self, rows: (left.append(len(rows)), keep(self, rows)))
    assert [(q.text, q.n_tokens) for q in write(generator, **how)] == [(q.text, q.n_tokens) for q in keep_all]
    assert left and left == sorted(left, reverse=True)


def test_top_1_is_greedy(generator: Generator) -> None:
    greedy, top_1 = write(generator), write(generator, decoding="top_k", top_k=1)
    assert [q.text for q in top_1] == [q.text for q in greedy]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(len(TEXTS))), kept=st.integers(1, len(TEXTS)), batch_tokens=st.sampled_from([1, 120, 10_000]))
@pytest.mark.parametrize("decoding", ["greedy", "beam", "top_k"])
def test_a_query_does_not_depend_on_its_batch(
    generator: Generator, whole: dict[str, list[Query]], decoding: str, order: list[int], kept: int, batch_tokens: int
) -> None:
    of_all = {(q.doc_id, q.relevance): q for q in whole[decoding]}
    how = make(GenerateSettings, {"decoding": decoding, "max_new_tokens": 6, "batch_tokens": batch_tokens})
    asked = [documents(generator)[i] for i in order[:kept]]
    written = QueryWriter(generator, how).write(asked)
    assert [q.doc_id for q in written] == [doc_id for doc_id, _ in asked for _ in (1, 0)]
    for query in written:
        other = of_all[query.doc_id, query.relevance]
        assert (query.text, query.n_tokens) == (other.text, other.n_tokens)
        assert query.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-4)


@pytest.fixture(scope="module")
def whole(generator: Generator) -> dict[str, list[Query]]:
    """All documents, in one batch."""
    return {decoding: write(generator, decoding=decoding, max_new_tokens=6) for decoding in ("greedy", "beam", "top_k")}


def test_queries_move_with_relevance(generator: Generator) -> None:
    written = write(generator, ["the wing flow"], relevances=tuple(i / 10 for i in range(11)), max_new_tokens=8)
    assert [q.relevance for q in written] == [i / 10 for i in range(11)]
    assert len({q.log_likelihood for q in written}) == 11


@pytest.mark.parametrize("decoding", ["greedy", "beam", "top_k"])
def test_a_document_whose_logits_are_nan_fails_alone(untied: Generator, decoding: str) -> None:
    sound = write(untied, ["the wing flow", "heat of"], decoding=decoding)
    token = untied.document_ids("#", 4)[-1]
    with torch.no_grad():
        untied.backbone.lm.get_input_embeddings().weight[token] = torch.nan
    first, bad_1, bad_0, second = _apart(write(untied, ["the wing flow", "#", "heat of"], decoding=decoding))
    assert bad_1.error == bad_0.error == "the model's logits are not finite"
    assert (bad_1.text, bad_1.log_likelihood, bad_1.n_tokens) == (None, None, None)
    if decoding != "top_k":  # there the documents' ids, d1 and d2, are part of what is drawn
        assert [q.text for q in first + second] == [q.text for q in sound]
    assert not any(q.error for q in first + second)


def _apart(written: list[Query]) -> tuple[list[Query], Query, Query, list[Query]]:
    return written[:2], written[2], written[3], written[4:]


def test_a_query_without_text_is_an_error(untied: Generator) -> None:
    with torch.no_grad():
        untied.backbone.lm.get_output_embeddings().weight.zero_()  # all logits equal: the first token, padding, is chosen
    assert {(q.text, q.error) for q in write(untied)} == {(None, "the model wrote nothing")}


def test_a_document_without_text_is_an_error_and_the_others_keep_their_places(generator: Generator) -> None:
    written = write(generator, ["the wing", "", "heat"])
    assert [q.doc_id for q in written] == ["d0", "d0", "d1", "d1", "d2", "d2"]
    assert [q.error for q in written] == [None, None, "the document has no text", "the document has no text", None, None]


def test_a_models_own_filters_are_not_applied(untied: Generator) -> None:
    before = write(untied)
    untied.backbone.lm.generation_config.update(repetition_penalty=9.0, suppress_tokens=list(range(2, 60)), min_new_tokens=12)
    assert write(untied) == before


def test_running_out_of_memory_halves_the_batches_and_changes_no_query(
    untied: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, decode = write(untied), decoding_module.decode

    def short_of_memory(generator: Generator, encodings: Any, index: torch.Tensor, *rest: Any) -> Any:
        if len(index) > 2:
            raise torch.OutOfMemoryError("no room for more than two rows")
        return decode(generator, encodings, index, *rest)

    monkeypatch.setattr(decoding_module, "decode", short_of_memory)
    writer = QueryWriter(untied, make(GenerateSettings, {"max_new_tokens": 12, "decoding": "greedy"}))
    assert [q.text for q in writer.write(documents(untied))] == [q.text for q in whole]
    assert writer.last_halvings >= 2


@pytest.mark.parametrize("how", [{"decoding": "greedy"}, {"decoding": "top_k", "samples": 11, "top_k": 20}])
def test_documents_read_in_parts_are_written_for_together_as_those_read_at_once(
    generator: Generator, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eleven samples are eight and three of an item, so its rows are not sorted by the length of their document."""
    whole, encode, read = write(generator, **how), generator.encode, []

    def counting(*documents: torch.Tensor) -> Any:
        read.append(len(documents[0]))
        return encode(*documents)

    monkeypatch.setattr(generator, "encode", counting)
    monkeypatch.setattr(batching, "CPU_BATCH_TOKENS", 60)
    written = write(generator, **how)
    assert [(q.text, q.n_tokens) for q in written] == [(q.text, q.n_tokens) for q in whole]
    assert [q.log_likelihood for q in written] == pytest.approx([q.log_likelihood for q in whole], abs=1e-4)
    assert len(read) > 2 and max(read) > 1


def test_copies_are_refused(generator: Generator) -> None:
    with pytest.raises(ConfigError, match=r"greedy decoding writes at most 1 .* samples is 2"):
        write_queries(generator, documents(generator), (1.0,), 2, make(GenerateSettings, {"decoding": "greedy"}))
    written = write_queries(generator, documents(generator), (0.5, 0.25), 2, make(GenerateSettings, {"max_new_tokens": 2}))
    assert [(q.relevance, q.sample) for q in written] == [(0.5, 0), (0.5, 1), (0.25, 0), (0.25, 1)] * len(TEXTS)


@pytest.mark.parametrize(
    ("text", "kept", "ends"),
    [
        (" what is heat", " what is heat", False),
        (" what is heat\nAnswer: this", " what is heat\n", True),
        ("\n\n what is\n\nheat", "\n\n what is\n", True),
        (" a<|end|>\nb", " a<|end|>", True),
        ("\n \n", "\n \n", False),
    ],
)
def test_a_decoder_only_query_ends_with_its_line(text: str, kept: str, ends: bool) -> None:
    tokenizer = llama_tokenizer()
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    length = len(tokenizer(kept)["input_ids"])
    one_line = QueryEnds(tokenizer, [tokenizer.eos_token_id], one_line=True, device=torch.device("cpu"))
    assert one_line.lengths(ids).tolist() == [length]
    ended = [bool(one_line(ids[:, :n], None)) for n in range(1, length + 1)]
    assert ended == [False] * (length - 1) + [ends]


def test_a_decoder_only_backbone_keeps_the_first_line(tmp_path: Path) -> None:
    generator = build(tmp_path, "llama")
    lm, tokenizer = generator.backbone.lm, generator.tokenizer
    with torch.no_grad():
        lm.get_output_embeddings().weight.zero_()  # every byte is as likely as any other
    written = write(generator, ["the wing"], decoding="top_k", top_k=258, samples=60, relevances=(1.0,), max_new_tokens=40)
    chooser = KeyedTopK(0, [row_key(0, "d0", 1.0, sample) for sample in range(60)], 258, 1.0)
    keys = LogitsProcessorList([AsProcessor(chooser)])
    ids, mask = generator.embed_documents(*_repeated(generator, "the wing", 60))
    with torch.no_grad():
        tokens = lm.generate(inputs_embeds=ids, attention_mask=mask, logits_processor=keys, max_new_tokens=40)
    whole = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]  # the end token also pads
    assert [q.text for q in written] == [" ".join(text.split("\n")[0].split()) for text in whole]
    assert sum("\n" in text for text in whole) > 3


def _repeated(generator: Generator, text: str, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.tensor([generator.document_ids(text, 64)]).expand(rows, -1)
    return ids, torch.ones_like(ids), torch.ones(rows)
