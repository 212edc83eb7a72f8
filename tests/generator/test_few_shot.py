"""Prompts of worked examples, and the control without relevance."""

import pytest
import torch

from readqg import api
from readqg.config import FewShotConfig, GenerateSettings, GeneratorSettings, TrainGeneratorConfig, make
from readqg.errors import ConfigError, InputError
from readqg.generator.backbone import Backbone
from readqg.generator.collation import collate
from readqg.generator.decoding import write_queries
from readqg.generator.few_shot import instruction
from readqg.generator.model import Generator
from readqg.generator.prompts import SoftPrompt
from readqg.generator.training import GeneratorTraining
from tests.builders import tiny_llama, tiny_t5
from tests.generator.pairs import pair_row, write_pairs


def _config(tmp_path, **settings):
    pairs = write_pairs(tmp_path / "pairs", [pair_row(i) for i in range(6)])
    return FewShotConfig(pairs=str(pairs), out=str(tmp_path / "prompts"), backbone=str(tiny_llama(tmp_path / "llama")), **settings)


def test_the_prompt_is_the_text_of_the_examples(tmp_path):
    config = _config(tmp_path, examples=2)
    said = api.few_shot(config)
    backbone = Backbone.load(config.backbone)
    prompts = SoftPrompt.load(config.out)
    text = prompts.facts.instruction
    assert all(f"Relevant Query: {query}\n" in text for query in said["facts"]["examples"])
    assert text.endswith("Example 3:\nDocument:\n") and prompts.facts.separator == "\nRelevant Query:"
    assert torch.equal(prompts.instruction, backbone.embed(torch.tensor(backbone.token_ids(text))).float())
    assert api.few_shot(config) == said


def test_queries_do_not_depend_on_the_relevance(tmp_path):
    config = _config(tmp_path)
    api.few_shot(config)
    generator = Generator.load(config.backbone, config.out, torch.device("cpu"), torch.float32)
    settings = GenerateSettings(decoding="greedy", max_new_tokens=6)
    found = write_queries(generator, [("d", [5, 6, 7])], [1.0, 0.0], 1, settings)
    assert found[0].text == found[1].text
    assert found[0].log_likelihood == pytest.approx(found[1].log_likelihood, abs=1e-5)  # its last bits hang on the place in the batch


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_what_follows_the_document_asks_for_a_query(tmp_path, kind):
    config = _config(tmp_path)
    if kind == "t5":
        config = config.model_copy(update={"backbone": str(tiny_t5(tmp_path / "t5"))})
    api.few_shot(config)
    generator = Generator.load(config.backbone, config.out, torch.device("cpu"), torch.float32)
    backbone = generator.backbone
    cue = [*backbone.token_ids("\nRelevant Query:"), *([backbone.end_id] if kind == "t5" else [])]
    embedded, mask = generator.embed_documents(torch.tensor([[5, 6]]), torch.ones(1, 2), torch.tensor([1.0]))
    assert mask.all() and torch.equal(embedded[0, -len(cue):], backbone.embed(torch.tensor(cue)))
    assert SoftPrompt.load(config.out).facts.conditioned_on == "examples"


def test_too_few_short_documents_are_refused(tmp_path):
    with pytest.raises(InputError, match="0 documents of at most 2 words"):
        api.few_shot(_config(tmp_path, example_words=2))


def test_examples_and_the_beginning_of_one_more():
    assert instruction([("a  wing\nflies", "what flies")]) == (
        "Example 1:\nDocument:\na wing flies\nRelevant Query: what flies\n\nExample 2:\nDocument:\n")


@pytest.mark.parametrize("profile", ["paper", "authors"])
def test_the_control_without_relevance_sees_positives_alone_under_r_1(tmp_path, profile):
    pairs = write_pairs(tmp_path / "pairs", [pair_row(i) for i in range(6)])
    config = TrainGeneratorConfig(
        pairs=str(pairs), out="unused", backbone=str(tiny_llama(tmp_path / "llama")), m=2, documents_per_step=2, unconditional=True,
        w_sc=0.0, w_cal=0.0, held_out_documents=1, profile=profile, compute={"device": "cpu", "precision": "fp32"})
    stage = GeneratorTraining(config)
    model = stage.build()
    batch = collate(stage.batch(0).rows, model, config, "step 0")
    assert batch.relevance.tolist() == [1.0, 1.0] and batch.is_positive.all() and batch.encoding.tolist() == [0, 0, 1, 1]
    loss, _ = stage.loss(model, stage.batch(0))
    loss.backward()
    assert torch.isfinite(loss)
    assert model.prompts.facts.conditioned_on == "nothing"
    assert model.prompts.relevance.plus.grad.abs().sum() > 0 and not model.prompts.relevance.minus.grad.any()
    assert set(stage.validate(model)) == {"positive_own", "positive_swapped"}


def test_the_control_has_no_use_for_eq_3_and_4():
    with pytest.raises(ConfigError, match="w_sc and w_cal to 0"):
        make(GeneratorSettings, {"unconditional": True})
