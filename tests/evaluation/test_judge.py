"""Judges: a probability from a cross-encoder or from a T5 model's first decoder step."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel, T5ForConditionalGeneration

from readqg.crossencoder import CrossEncoderScorer
from readqg.errors import ModelError
from readqg.evaluation.judge import CrossEncoderJudge, Judge, T5Judge
from tests.builders import WORDS, tiny_cross_encoder, tiny_t5

PAIRS = [(f"what is {a}", f"the {b} of the {c} layer " * n) for n, (a, b, c) in
         enumerate(zip(WORDS, WORDS[1:], WORDS[2:], strict=False), 1)] + [("flow", ""), ("", "heat"), ("", "")]


def generated(folder, prompts):
    """What `generate` says: softmax of the scores of ▁true and ▁false at its first step, one prompt at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), T5ForConditionalGeneration.from_pretrained(folder).eval()
    answers, found = tokenizer.convert_tokens_to_ids(["▁true", "▁false"]), []
    for prompt in prompts:
        out = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=1, do_sample=False, num_beams=1,
                             output_scores=True, return_dict_in_generate=True)
        found.append(out.scores[0][0, answers].softmax(-1)[0].item())
    return np.asarray(found)


@pytest.mark.parametrize("tied", [True, False])
def test_a_t5_judge_equals_the_first_step_of_generate(tmp_path, tied):
    folder = tiny_t5(tmp_path, tied=tied)
    judge = Judge.open(str(folder), max_length=1000, batch_tokens=3000)
    expected = generated(folder, [f"Query: {q} Document: {d} Relevant:" for q, d in PAIRS])
    probabilities = judge.probabilities(PAIRS)
    assert isinstance(judge, T5Judge)
    assert probabilities.dtype == np.float32
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_a_long_document_is_cut_so_that_the_end_of_the_prompt_stays(tmp_path):
    folder = tiny_t5(tmp_path)
    judge, tokenizer = Judge.open(str(folder), max_length=60, batch_tokens=600), AutoTokenizer.from_pretrained(folder)
    ids = judge._prompts([("flow", "wing " * 500)])[0]
    assert len(ids) == 60
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.startswith("Query: flow Document: wing wing") and text.endswith("wing wing Relevant:")
    assert ids[-1] == tokenizer.eos_token_id
    expected = generated(folder, [text])
    np.testing.assert_allclose(judge.probabilities([("flow", "wing " * 500)]), expected, atol=1e-6)


def test_the_token_budget_changes_no_probability(tmp_path):
    folder = str(tiny_t5(tmp_path))
    one_by_one = Judge.open(folder, 1000, 1).probabilities(PAIRS)
    np.testing.assert_allclose(one_by_one, Judge.open(folder, 1000, 5000).probabilities(PAIRS), atol=1e-6)


@pytest.mark.parametrize("build", [tiny_t5, tiny_cross_encoder])
def test_a_bfloat16_judge_is_close_and_does_not_tie(tmp_path, build):
    folder = str(build(tmp_path))
    pairs = [(a, f"the {b}") for a in WORDS for b in WORDS]
    full = Judge.open(folder, 60, 2000).probabilities(pairs)
    half = Judge.open(folder, 60, 2000, "cpu", torch.bfloat16).probabilities(pairs)
    np.testing.assert_allclose(half, full, atol=0.1)
    assert len(set(half.tolist())) > 0.95 * len(set(full.tolist()))


def test_a_cross_encoder_judge_is_the_sigmoid_of_the_logit(tmp_path):
    folder = str(tiny_cross_encoder(tmp_path))
    judge = Judge.open(folder, 60, 500)
    logits = CrossEncoderScorer(folder, 60, 500, "cpu", torch.float32).score(PAIRS)
    assert isinstance(judge, CrossEncoderJudge)
    np.testing.assert_allclose(judge.probabilities(PAIRS), 1 / (1 + np.exp(-logits.astype(np.float64))), atol=1e-6)


@pytest.mark.parametrize("build", [tiny_t5, tiny_cross_encoder])
def test_no_pairs_give_no_probabilities(tmp_path, build):
    probabilities = Judge.open(str(build(tmp_path)), 60, 500).probabilities([])
    assert probabilities.shape == (0,) and probabilities.dtype == np.float32


def test_a_t5_without_true_and_false_is_refused(tmp_path):
    folder = tiny_t5(tmp_path)
    vocabulary = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(vocabulary.replace("▁true", "▁yes").replace("▁false", "▁no"), encoding="utf-8")
    with pytest.raises(ModelError, match="▁true"):
        Judge.open(str(folder), 60, 500)


def test_a_model_of_another_kind_is_refused(tmp_path):
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=10)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="names BertModel"):
        Judge.open(str(tmp_path), 60, 500)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        Judge.open(str(tmp_path), 60, 500)


def test_a_t5_with_pickled_or_missing_weights_is_refused(tmp_path):
    folder = tiny_t5(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["decoder.final_layer_norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack decoder\.final_layer_norm"):
        Judge.open(str(folder), 60, 500)
    os.remove(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        Judge.open(str(folder), 60, 500)


def test_a_length_that_leaves_no_room_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no room"):
        Judge.open(str(tiny_t5(tmp_path)), 8, 500)


@pytest.mark.real
def test_with_the_real_t5_tokenizer_the_prompt_ends_as_it_should_and_reads_true_and_false(shared, tmp_path):
    source = shared / "models/t5-tokenizer"
    config = json.loads((source / "t5-small.config.json").read_text())
    config.update(d_model=16, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=1,
                  architectures=["T5ForConditionalGeneration"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    T5ForConditionalGeneration(T5ForConditionalGeneration.config_class.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, tmp_path / name)
    judge, tokenizer = Judge.open(str(tmp_path), 512, 8192), AutoTokenizer.from_pretrained(tmp_path)
    ids = judge._prompts([("how many people live in Berlin?", "Berlin is a city. " * 300)])[0]
    assert len(ids) == 512
    text = tokenizer.decode(ids)
    assert text.startswith("Query: how many people live in Berlin? Document: Berlin is") and text.endswith(" Relevant:</s>")
    assert tokenizer.convert_tokens_to_ids(["▁true", "▁false"]) == [1176, 6136]
    expected = generated(tmp_path, ["Query: a Document: b Relevant:"])
    np.testing.assert_allclose(judge.probabilities([("a", "b")]), expected, atol=1e-6)
