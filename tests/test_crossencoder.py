"""Cross-encoders: the same logits as sentence-transformers, in float32 and close to them in bfloat16."""

import os
from copy import deepcopy
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from readqg.crossencoder import CrossEncoderScorer, load_model, tensors
from readqg.errors import ModelError
from readqg.reranker.scoring import TrainingScorer
from readqg.tokenizing import EncodedPairs, PairTokenizer, _windows, load_tokenizer
from tests.builders import WORDS, bert_tokenizer, tiny_cross_encoder

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 66, "initializer_range": 0.3, "num_labels": 1, "pad_token_id": 0}
ARCHITECTURES = {
    "roberta": lambda size: RobertaConfig(vocab_size=size, **SIZES),
    "xlm-roberta": lambda size: XLMRobertaConfig(vocab_size=size, **SIZES),
    "electra": lambda size: ElectraConfig(vocab_size=size, embedding_size=16, **SIZES),
    "deberta-v2": lambda size: DebertaV2Config(vocab_size=size, relative_attention=True, pos_att_type="p2c|c2p", **SIZES),
    "distilbert": lambda size: DistilBertConfig(vocab_size=size, dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=1,
                                                max_position_embeddings=66, initializer_range=0.3),
    "modernbert": lambda size: ModernBertConfig(vocab_size=size, global_attn_every_n_layers=2, cls_token_id=2, sep_token_id=3,
                                                bos_token_id=2, eos_token_id=3, **SIZES),
    "llama": lambda size: LlamaConfig(vocab_size=size, **SIZES),
}
PAIRS = [(f"what is {a} {b}", f"the {b} of the {c} " * n) for n, (a, b, c) in
         enumerate(zip(WORDS, WORDS[1:], WORDS[2:], strict=False), 1)] + [("flow", ""), ("", "heat")]


def build(kind, folder):
    """A tiny cross-encoder of some architecture; its tokenizer cuts at 60 tokens, as its file says."""
    if kind == "bert":
        return tiny_cross_encoder(folder)
    tokenizer = bert_tokenizer()
    tokenizer.model_max_length = 60
    if kind != "electra":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(ARCHITECTURES[kind](len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_level_tokenizer():
    """As RoBERTa's: bytes, no segment ids, `<s> a </s></s> b </s>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "<pad>", "</s>", *alphabet]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", sep_token="</s>", cls_token="<s>",
                                   pad_token="<pad>", model_input_names=["input_ids", "attention_mask"])


def bare_tokenizer():
    """No special tokens around or between the texts, cut on the left."""
    tokenizer = byte_level_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", truncation_side="left")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, tokenizer in {"word pieces": bert_tokenizer(), "bytes": byte_level_tokenizer(), "bare": bare_tokenizer()}.items():
        made[name] = tiny_cross_encoder(tmp_path_factory.mktemp("tokenizer"), max_positions=1000)
        tokenizer.save_pretrained(made[name])
    return made


@pytest.mark.parametrize("kind", ["word pieces", "bytes", "bare"])
@given(
    pairs=st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), min_size=1, max_size=5),
    max_length=st.integers(6, 40),
)
@settings(max_examples=60, deadline=None)
def test_pairs_are_tokenised_as_the_tokenizer_does_a_pair(folders, kind, pairs, max_length):
    folder = str(folders[kind])
    encoded = PairTokenizer(folder, max_length)(pairs)
    expected = load_tokenizer(folder)([a for a, _ in pairs], [b for _, b in pairs], truncation=True, max_length=max_length,
                                      return_token_type_ids=True)
    assert [ids.tolist() for ids in encoded.input_ids] == expected["input_ids"]
    assert [ids.tolist() for ids in encoded.type_ids] == expected["token_type_ids"]


def test_the_longer_text_is_cut_first_and_an_odd_token_goes_to_it(folders):
    def kept(first, second, max_length=14):  # eleven tokens beside the three special ones
        ids = PairTokenizer(str(folders["word pieces"]), max_length)([("a " * first, "b " * second)]).type_ids[0].tolist()
        return ids.count(0) - 2, ids.count(1) - 1

    assert kept(4, 7) == (4, 7)
    assert kept(4, 90) == (4, 7)
    assert kept(90, 4) == (7, 4)
    assert kept(80, 90) == (5, 6)
    assert kept(90, 80) == (6, 5)


@pytest.mark.parametrize("kind", ["bert", *ARCHITECTURES])
def test_scores_equal_sentence_transformers_in_float32(tmp_path, kind):
    folder = str(build(kind, tmp_path))
    scores = CrossEncoderScorer(folder, 60, 200, "cpu", torch.float32).score(PAIRS)
    expected = CrossEncoder(folder, max_length=60, device="cpu").predict(PAIRS, activation_fn=torch.nn.Identity())
    assert scores.dtype == np.float32 and scores.shape == (len(PAIRS),)
    assert np.std(expected) > 1e-2
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "electra"])
def test_the_last_layer_makes_the_first_tokens_state_alone_and_gradients_are_the_plain_models(tmp_path, kind):
    folder = str(build(kind, tmp_path))
    ours, plain = load_model(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()
    copied, shapes = deepcopy(ours), []
    ours.base_model.encoder.layer[-1].register_forward_hook(lambda _layer, _args, out: shapes.append(tuple(out.shape)))
    tokenize = PairTokenizer(folder, 60)
    batch = tensors(tokenize.padded(tokenize(PAIRS), range(len(PAIRS))), "cpu")
    for model in (ours, plain):
        model(**batch).logits.square().sum().backward()
    assert shapes == [(len(PAIRS), 1, 32)]
    for (name, own), theirs in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-4, atol=1e-4, msg=name)
    with torch.no_grad():
        copied.base_model.encoder.layer[-1].output.dense.weight.zero_()
        assert not torch.allclose(copied(**batch).logits, ours(**batch).logits), "a copy has its own layer"


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_in_training_it_is_the_plain_models_too(tmp_path, dtype, within):
    """As it is trained on a CPU: attention written out, texts padded, under autocast."""
    folder = str(build("bert", tmp_path))
    config = AutoConfig.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config.save_pretrained(folder)
    ours, plain = load_model(folder), AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").train()
    tokenize = PairTokenizer(folder, 60)
    encoded, rows = tokenize(PAIRS), range(len(PAIRS))
    found = TrainingScorer(tokenize, 10_000, dtype).with_gradient(ours, encoded, rows)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        expected = plain(**tensors(tokenize.padded(encoded, rows), "cpu")).logits[:, 0]
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=within)


def test_the_last_layers_attention_has_its_dropout_in_training(tmp_path):
    folder = str(build("bert", tmp_path))
    AutoConfig.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5).save_pretrained(folder)
    model = load_model(folder)
    model.base_model.encoder.layer[0].attention.self.dropout.p = 0.0
    tokenize = PairTokenizer(folder, 60)
    batch = tensors(tokenize.padded(tokenize(PAIRS), range(len(PAIRS))), "cpu")
    assert not torch.equal(model.train()(**batch).logits, model(**batch).logits)
    assert torch.equal(model.eval()(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("kind", ["bert", *ARCHITECTURES])
def test_bfloat16_scores_are_close_and_do_not_tie(tmp_path, kind):
    folder = str(build(kind, tmp_path))
    full = CrossEncoderScorer(folder, 60, 2000, "cpu", torch.float32).score(PAIRS)
    scorer = CrossEncoderScorer(folder, 60, 2000, "cpu", torch.bfloat16)
    half = scorer.score(PAIRS)
    assert next(scorer.model.base_model.parameters()).dtype == torch.bfloat16
    assert np.corrcoef(full, half)[0, 1] > 0.98
    assert not np.array_equal(half, torch.from_numpy(half).bfloat16().float().numpy()), "the head, too, is in bfloat16"


def test_a_bfloat16_head_would_tie_where_ours_does_not(tmp_path):
    folder = str(tiny_cross_encoder(tmp_path))
    scorer = CrossEncoderScorer(folder, 60, 4000, "cpu", torch.bfloat16)
    pairs = [(f"{a} {b}", f"the {c}") for a in WORDS for b in WORDS for c in WORDS[:3]]
    encoded = scorer.tokenize(pairs)
    naive = BertForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        tied = naive(**tensors(scorer.tokenize.padded(encoded, range(len(pairs))), "cpu")).logits[:, 0].tolist()
    assert len(set(tied)) < len(pairs) * 0.6
    assert len(set(scorer.score(pairs).tolist())) > len(pairs) * 0.95


def test_the_token_budget_changes_no_score(tmp_path):
    folder = str(tiny_cross_encoder(tmp_path))
    one_by_one = CrossEncoderScorer(folder, 60, 1, "cpu", torch.float32).score(PAIRS)
    together = CrossEncoderScorer(folder, 60, 10_000, "cpu", torch.float32).score(PAIRS)
    np.testing.assert_allclose(one_by_one, together, atol=1e-5)


def test_no_pairs_give_no_scores(tmp_path):
    scores = CrossEncoderScorer(str(tiny_cross_encoder(tmp_path)), 60, 100, "cpu", torch.float32).score([])
    assert scores.shape == (0,) and scores.dtype == np.float32


def test_pairs_longer_than_the_model_can_take_are_cut_to_it(tmp_path):
    scorer = CrossEncoderScorer(str(tiny_cross_encoder(tmp_path, max_positions=64)), 512, 1000, "cpu", torch.float32)
    assert scorer.tokenize([("flow", "heat " * 500)]).lengths == [64]
    assert np.isfinite(scorer.score([("flow", "heat " * 500)])).all()


def test_what_is_not_a_number_is_passed_on(tmp_path):
    scorer = CrossEncoderScorer(str(tiny_cross_encoder(tmp_path)), 60, 1000, "cpu", torch.float32)
    with torch.no_grad():
        scorer.model.bert.embeddings.word_embeddings.weight[scorer.tokenize.tokenizer.convert_tokens_to_ids("shock")] = torch.nan
    assert np.isnan(scorer.score([("flow", "heat"), ("flow", "shock")])).tolist() == [False, True]


def test_tokenised_pairs_travel_in_a_table_whole_sliced_or_none(tmp_path):
    tokenize = PairTokenizer(str(tiny_cross_encoder(tmp_path)), 60)
    encoded = tokenize(PAIRS)
    table = pa.table(dict(zip(("ids", "types"), encoded.to_arrow(), strict=True)))
    for start, stop in [(0, len(PAIRS)), (2, 5), (3, 3)]:
        columns = table.slice(start, stop - start).columns
        back = EncodedPairs.from_arrow(*(column.combine_chunks() for column in columns))
        assert [ids.tolist() for ids in back.input_ids] == [ids.tolist() for ids in encoded.input_ids[start:stop]]
        assert [types.tolist() for types in back.type_ids] == [types.tolist() for types in encoded.type_ids[start:stop]]
    assert [len(column) for column in tokenize([]).to_arrow()] == [0, 0]


def test_equal_pairs_score_equally_wherever_they_stand(tmp_path):
    scorer = CrossEncoderScorer(str(tiny_cross_encoder(tmp_path)), 60, 150, "cpu", torch.float32)
    scores = scorer.score([PAIRS[0], *PAIRS, PAIRS[0], *PAIRS])
    assert scores[0] == scores[1] == scores[len(PAIRS) + 1]
    assert scores[1:len(PAIRS) + 1].tolist() == scores[len(PAIRS) + 2:].tolist() == scorer.score(PAIRS).tolist()


def test_tokens_scored_are_counted_without_padding(tmp_path):
    scorer = CrossEncoderScorer(str(tiny_cross_encoder(tmp_path)), 60, 1000, "cpu", torch.float32)
    scorer.score([("flow", "heat"), ("flow", "heat of the layer")])
    assert (scorer.last_tokens, scorer.last_halvings) == (5 + 8, 0)


def test_a_model_of_two_labels_is_refused(tmp_path):
    config = ARCHITECTURES["distilbert"](100)
    config.num_labels = 2
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="2 labels"):
        load_model(str(tmp_path))


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    model = BertModel(BertForSequenceClassification.from_pretrained(tiny_cross_encoder(tmp_path)).config)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lack classifier\.bias, classifier\.weight"):
        load_model(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path):
    folder = tiny_cross_encoder(tmp_path)
    torch.save(BertForSequenceClassification.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    os.remove(folder / "model.safetensors")
    with pytest.raises(ModelError, match="safetensors"):
        load_model(str(folder))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    folder = tiny_cross_encoder(tmp_path)
    os.remove(folder / "tokenizer.json")
    os.remove(folder / "tokenizer_config.json")
    with pytest.raises(ModelError, match="no vocabulary"):
        load_tokenizer(str(folder))


@given(st.integers(0, 60), st.integers(0, 80), st.integers(8, 30), st.integers(1, 30))
def test_passages_hold_every_token_and_begin_with_the_title(title, body, tokens, stride):
    ids = np.arange(title + body)
    found = _windows(ids, title, tokens, min(stride, tokens))
    head = min(title, tokens // 2)
    if title + body <= tokens:
        assert len(found) == 1 and np.array_equal(found[0], ids)
        return
    assert all(len(passage) <= tokens and np.array_equal(passage[:head], ids[:head]) for passage in found)
    assert set(ids) <= {int(token) for passage in found for token in passage}
    assert all(passage[-1] != ids[-1] for passage in found[:-1]), "none after the one that ends with the document"


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    folder = str(tiny_cross_encoder(tmp_path_factory.mktemp("tokens")))
    return cache(lambda max_length: PairTokenizer(folder, max_length))


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.sampled_from([8, 13, 24, 48]), st.integers(8, 40), st.integers(1, 40))
def test_no_token_of_a_document_is_unscored_however_long_the_query(tokenizer_of, query, title, text, length, tokens, stride):
    tokenize = tokenizer_of(length)
    tokenize._ids = lambda texts: {t: np.arange(1000, 1000 + len(t.split())) for t in texts}  # tokens that can be told apart
    encoded, number = tokenize.passages([("q " * query, "t " * title, "w " * text)], tokens, min(stride, tokens))
    scored = [ids[types == 1][:-1] for ids, types in zip(encoded.input_ids, encoded.type_ids, strict=True)]
    assert number == [len(scored)] and all(len(ids) <= length for ids in encoded.input_ids)
    assert {int(token) for ids in scored for token in ids} == set(range(1000, 1000 + title + text))


def test_a_passage_is_scored_as_the_query_with_its_text(tmp_path):
    scorer = CrossEncoderScorer(str(tiny_cross_encoder(tmp_path)), 64, 8192, "cpu", torch.float32)
    words = ["wing", "flow", "boundary", "layer", "shock", "heat", "query", "document", "relevant", "what", "is", "of"]
    encoded, number = scorer.tokenize.passages([("heat", "the", " ".join(words)), ("heat", "", "wing"), ("heat", "", "")], 8, 4)
    expected = [("heat", f"the {' '.join(words[i:i + 7])}") for i in (0, 4, 8)] + [("heat", "wing"), ("heat", "")]
    assert number == [3, 1, 1]
    np.testing.assert_array_equal(scorer.score_encoded(encoded), scorer.score(expected))


@pytest.mark.real
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_real_model_tells_the_answer_from_the_topic(shared, dtype):
    question = "How many people live in Berlin?"
    answer = "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers."
    scorer = CrossEncoderScorer(str(shared / "models/ms-marco-MiniLM-L-12-v2"), 512, 8192, "cpu", dtype)
    scores = scorer.score([(question, answer), (question, "Berlin is well known for its museums.")])
    np.testing.assert_allclose(scores, [9.27, -3.93], atol=0.03)
