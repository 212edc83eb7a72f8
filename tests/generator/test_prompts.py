"""Soft prompts: Eq. 1, where they start from, and that what is saved fits only what it was made for."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from readqg.config import GeneratorSettings
from readqg.errors import ModelError
from readqg.generator.backbone import Backbone
from readqg.generator.prompts import PromptFacts, RelevancePrompt, SoftPrompt
from tests.builders import tiny_llama, tiny_t5


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(tiny_t5(tmp_path_factory.mktemp("t5"), tied=False))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(tiny_llama(tmp_path_factory.mktemp("llama")))


def settings(**changes: Any) -> GeneratorSettings:
    return GeneratorSettings(**{"n_relevance": 2, "n_instruction": 3, "instruction": "what is the query of the document", **changes})


def embeddings(backbone: Backbone, ids: list[int]) -> torch.Tensor:
    return backbone.embed(torch.tensor(ids, dtype=torch.long)).float()


def test_relevance_moves_the_prompt_along_a_line() -> None:
    plus, minus = torch.tensor([[1.0, 0.0], [4.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, -2.0]])
    found = RelevancePrompt(plus, minus)(torch.tensor([1.0, 0.0, 0.25]))
    assert found.shape == (3, 2, 2)
    assert torch.equal(found[0], plus) and torch.equal(found[1], minus)
    assert torch.equal(found[2], torch.tensor([[0.25, 0.75], [1.0, -1.0]]))


def test_instruction_comes_first_then_relevance(t5: Backbone) -> None:
    prompts = SoftPrompt.initial(t5, settings())
    found = prompts(torch.tensor([1.0, 0.0]))
    assert found.shape == (2, prompts.length, 32) and prompts.length == 5
    assert torch.equal(found[1, :3], prompts.instruction) and torch.equal(found[1, 3:], prompts.relevance.minus)


def test_prompts_start_from_the_backbones_embeddings(t5: Backbone) -> None:
    prompts = SoftPrompt.initial(t5, settings())
    ids = t5.token_ids("what is the query of the document")
    assert torch.equal(prompts.instruction, embeddings(t5, ids[:3]))
    assert torch.equal(prompts.relevance.plus, embeddings(t5, t5.token_ids("true") * 2))
    assert torch.equal(prompts.relevance.minus, embeddings(t5, t5.token_ids("false") * 2))


def test_a_short_instruction_repeats_cyclically(t5: Backbone) -> None:
    ids = t5.token_ids("what is the")
    assert len(ids) == 3
    prompts = SoftPrompt.initial(t5, settings(instruction="what is the", n_instruction=8))
    assert torch.equal(prompts.instruction, embeddings(t5, (ids * 3)[:8]))


def test_authors_count_the_end_token_as_part_of_the_instruction(t5: Backbone) -> None:
    ids = t5.token_ids("what is the")
    prompts = SoftPrompt.initial(t5, settings(instruction="what is the", n_instruction=4, profile="authors"))
    assert torch.equal(prompts.instruction, embeddings(t5, [*ids, t5.end_id]))


def test_there_may_be_no_instruction(t5: Backbone) -> None:
    assert SoftPrompt.initial(t5, settings(n_instruction=0, instruction=""))(torch.tensor([0.5])).shape == (1, 2, 32)


def test_an_instruction_without_tokens_is_refused(t5: Backbone) -> None:
    with pytest.raises(ModelError, match="n_instruction to 0"):
        SoftPrompt.initial(t5, settings(instruction=""))


@pytest.mark.real
def test_authors_instruction_has_thirteen_tokens_in_flan_t5(shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "t5-tokenizer")
    assert len(tokenizer("Generate a question for the passage with relevance label: ").input_ids) == 13


def test_parameters_are_float32_over_a_bf16_backbone(t5: Backbone) -> None:
    prompts = SoftPrompt.initial(Backbone.load(t5.name, dtype=torch.bfloat16), settings())
    assert {p.dtype for p in prompts.parameters()} == {torch.float32}


def test_saved_prompts_come_back_and_are_small(t5: Backbone, tmp_path: Path) -> None:
    prompts = SoftPrompt.initial(t5, settings(profile="authors"), data_fingerprint="abc")
    prompts.save(tmp_path)
    loaded = SoftPrompt.load(tmp_path)
    assert loaded.facts == prompts.facts
    for name, parameter in prompts.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name))
    said = json.loads((tmp_path / "prompts.json").read_text())
    assert said["lengths"] == {"instruction": 3, "plus": 2, "minus": 2}
    assert (said["base_model"], said["data_fingerprint"], said["profile"]) == (t5.name, "abc", "authors")
    assert said["base_fingerprint"] == t5.fingerprint and said["kind"] == "encoder-decoder"


def test_prompts_of_the_papers_size_take_well_under_a_megabyte(t5: Backbone, tmp_path: Path) -> None:
    facts = SoftPrompt.initial(t5, settings()).facts
    SoftPrompt(torch.zeros(13, 768), RelevancePrompt(torch.zeros(5, 768), torch.zeros(5, 768)), facts).save(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 100_000


def test_prompts_for_another_kind_of_model_are_refused(t5: Backbone, llama: Backbone) -> None:
    with pytest.raises(ModelError, match=r"do not fit.*kind: prompts encoder-decoder, backbone decoder-only"):
        SoftPrompt.initial(t5, settings()).check_fits(llama)


def test_prompts_for_another_hidden_size_are_refused(t5: Backbone) -> None:
    prompts = SoftPrompt.initial(t5, settings())
    wide = PromptFacts(**{**vars(prompts.facts), "architecture": {**prompts.facts.architecture, "hidden_size": 64}})
    with pytest.raises(ModelError, match="hidden_size: prompts 64, backbone 32"):
        SoftPrompt(torch.zeros(3, 64), RelevancePrompt(torch.zeros(2, 64), torch.zeros(2, 64)), wide).check_fits(t5)


def test_other_weights_of_the_same_model_load_with_a_warning(
    t5: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    prompts = SoftPrompt.initial(t5, settings())
    with caplog.at_level(logging.WARNING, "readqg"):
        prompts.check_fits(t5)
        assert not caplog.records
        prompts.check_fits(Backbone.load(tiny_t5(tmp_path / "other", tied=False, seed=1)))
    assert "other weights" in caplog.text and t5.fingerprint in caplog.text


def test_a_folder_without_prompts_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no prompts"):
        SoftPrompt.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_damaged_facts_are_named(t5: Backbone, tmp_path: Path, content: str) -> None:
    SoftPrompt.initial(t5, settings()).save(tmp_path)
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(ModelError, match=r"prompts\.json is damaged"):
        SoftPrompt.load(tmp_path)


def test_damaged_tensors_are_named(t5: Backbone, tmp_path: Path) -> None:
    SoftPrompt.initial(t5, settings()).save(tmp_path)
    (tmp_path / "prompts.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"prompts\.safetensors cannot be read"):
        SoftPrompt.load(tmp_path)


def test_files_of_two_trainings_are_refused(t5: Backbone, tmp_path: Path) -> None:
    prompts = SoftPrompt.initial(t5, settings())
    SoftPrompt(torch.zeros(3, 8), RelevancePrompt(torch.zeros(2, 8), torch.zeros(2, 8)), prompts.facts).save(tmp_path)
    with pytest.raises(ModelError, match="not of one training"):
        SoftPrompt.load(tmp_path)
