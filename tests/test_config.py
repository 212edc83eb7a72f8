"""Configs: one home of every default, validated, compared by what decides the outcome."""

import pytest

from readqg import config as c
from readqg.errors import ConfigError


def test_the_defaults_are_the_papers():
    generator, reranker, generate = c.GeneratorSettings(), c.RerankerSettings(), c.GenerateSettings()
    assert (generator.n_relevance, generator.n_instruction, generator.learning_rate, generator.steps) == (5, 10, 1e-2, 20_000)
    assert (generator.documents_per_step, generator.m, generator.document_tokens, generator.query_tokens) == (4, 4, 128, 16)
    assert (reranker.batch, reranker.epochs, reranker.learning_rate, reranker.max_length) == (8, 2, 7e-6, 384)
    assert (generate.top_k, generate.document_tokens, generate.max_new_tokens, generate.relevances) == (10, 384, 64, (1.0, 0.0))


def test_where_a_stage_runs_does_not_change_its_identity():
    here = c.GenerateConfig(documents="a", out="b")
    there = c.GenerateConfig(documents="/mnt/a", out="/mnt/b", compute=c.Compute(ray_address="10.0.0.1:6379", workers=8))
    assert c.identity(here) == c.identity(there)
    assert c.identity(here) != c.identity(here.model_copy(update={"seed": 1}))
    assert c.identity(here) != c.identity(here.model_copy(update={"compute": c.Compute(precision="fp32")}))


def test_later_layers_win_field_by_field():
    config = c.make(c.RunConfig, {"reranker": {"epochs": 3, "batch": 4}}, {"reranker": {"epochs": 1}})
    assert (config.reranker.epochs, config.reranker.batch) == (1, 4)


def test_an_unknown_field_is_named():
    with pytest.raises(ConfigError, match=r"generate\.relevence"):
        c.make(c.RunConfig, {"generate": {"relevence": [1]}})


@pytest.mark.parametrize("relevances", [[], [1.5], [-0.1], [1, 1]])
def test_relevances_are_distinct_and_within_0_and_1(relevances):
    with pytest.raises(ConfigError, match="relevances"):
        c.make(c.GenerateSettings, {"relevances": relevances})


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        c.GenerateSettings().seed = 1


@pytest.mark.parametrize("preset", sorted(c.PRESETS))
def test_every_preset_is_valid(preset):
    for name, values in c.PRESETS[preset].items():
        cls = getattr(c, name)
        required = {field: "x" for field, info in cls.model_fields.items() if info.is_required()}
        assert c.make(cls, required, values)
