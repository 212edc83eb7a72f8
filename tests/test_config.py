"""Configs: one home of every default, validated, compared by what decides the outcome."""

import pytest

from readqg import config as c
from readqg.errors import ConfigError

PAPER = {
    c.GeneratorSettings: {
        "profile": "paper", "n_relevance": 5, "n_instruction": 10, "instruction": "Generate a question for this passage with the labels:",
        "learning_rate": 1e-2, "steps": 20_000, "documents_per_step": 4, "m": 4, "document_tokens": 128, "query_tokens": 16,
        "temperature": 0.25, "margin": 1.0, "w_mle": 1, "w_sc": 1, "w_cal": 1, "dropout": False, "length_normalised": False,
    },
    c.PairsSettings: {"rule": "paper", "m": 4},
    c.GenerateSettings: {"relevances": (1.0, 0.0), "decoding": "top_k", "top_k": 10, "beams": 3, "document_tokens": 384,
                         "max_new_tokens": 64},
    c.RerankerSettings: {
        "sign": "paper", "activation": "identity", "negative_pair": "query_query", "margin": 0, "w_mr": 1, "batch": 8, "epochs": 2,
        "learning_rate": 7e-6, "warmup_epochs": 0.1, "weight_decay": 0.01, "gradient_clip": 1.0, "max_length": 384,
    },
    c.RetrieveSettings: {"top_k": 100, "fields": "multifield", "k1": 0.9, "b": 0.4, "drop_self": False},
    c.ScoreSettings: {"max_length": 512},
}


@pytest.mark.parametrize("settings", PAPER, ids=lambda s: s.__name__)
def test_the_defaults_are_the_papers(settings):
    assert {name: getattr(settings(), name) for name in PAPER[settings]} == PAPER[settings]


def test_the_preset_authors_is_what_their_code_does():
    generator = c.make(c.TrainGeneratorConfig, c.PRESETS["authors"]["TrainGeneratorConfig"], {"pairs": "p", "out": "o"})
    assert (generator.profile, generator.n_instruction, generator.dropout) == ("authors", 13, True)
    assert generator.instruction == "Generate a question for the passage with relevance label: "
    reranker = c.make(c.TrainRerankerConfig, c.PRESETS["authors"]["TrainRerankerConfig"], {"queries": "q", "documents": "d", "out": "o"})
    assert (reranker.sign, reranker.activation) == ("authors", "sigmoid")
    assert c.PRESETS["authors"]["PairsConfig"] == {"rule": "authors"}


def test_where_a_stage_runs_does_not_change_its_identity():
    here = c.GenerateConfig(documents="a", out="b")
    there = c.GenerateConfig(documents="/mnt/a", out="/mnt/b", compute=c.Compute(ray_address="10.0.0.1:6379", workers=8))
    assert c.identity(here) == c.identity(there)
    assert c.identity(here) != c.identity(here.model_copy(update={"seed": 1}))
    assert c.identity(here) != c.identity(here.model_copy(update={"compute": c.Compute(precision="fp32")}))


def test_later_layers_win_field_by_field():
    config = c.make(c.RunConfig, {"reranker": {"epochs": 3, "batch": 4}}, {"reranker": {"epochs": 1}})
    assert (config.reranker.epochs, config.reranker.batch) == (1, 4)


def test_a_fault_of_several_fields_does_not_print_them_all():
    with pytest.raises(ConfigError) as fault:
        c.make(c.RunConfig, {"reranker": {"unverified": "drop"}})
    assert str(fault.value).splitlines()[1].startswith("  reranker: unverified: drop needs") and "{" not in str(fault.value)
    with pytest.raises(ConfigError, match=r"price: .*; found \{'a': 1\}"):
        c.make(c.RunConfig, {"price": {"a": 1}})


def test_an_unknown_field_is_named():
    with pytest.raises(ConfigError, match=r"generate\.relevence"):
        c.make(c.RunConfig, {"generate": {"relevence": [1]}})


@pytest.mark.parametrize("relevances", [[], [1.5], [-0.1], [1, 1]])
def test_relevances_are_distinct_and_within_0_and_1(relevances):
    with pytest.raises(ConfigError, match="relevances"):
        c.make(c.GenerateSettings, {"relevances": relevances})


@pytest.mark.parametrize(("relevances", "settings", "said"), [
    ([1.0], {}, "lacks 0, the r reranker.negative_relevance; reranker.w_mr 0 trains without"),
    ([1.0, 0.0], {"negative_relevance": 0.4}, "1 0 lacks 0.4"),
    ([0.5, 0.0], {"w_mr": 0}, "0.5 0 lacks 1, the r of the positives"),
    ([1.0], {"w_mr": 0, "graded": 2}, "graded 2 needs queries at r under 1"),
    ([1.0], {"w_mr": 0, "mined": 4, "mined_by": "negative"}, "lacks 0"),
    ([1.0], {"w_mr": 0, "negative_round_trip": 10}, "lacks 0.*negative_round_trip looks at such"),
])
def test_training_says_at_which_relevances_it_wants_queries(relevances, settings, said):
    with pytest.raises(ConfigError, match=said):
        c.make(c.RerankerSettings, settings).check_asked(relevances)


@pytest.mark.parametrize(("relevances", "settings"), [
    ([1.0, 0.0], {}), ([1.0], {"w_mr": 0}), ([1.0], {"negative": "other_document"}), ([1.0], {"negative": "last_positive"}),
    ([1.0, 0.4, 0.0], {"negative_relevance": 0.4, "graded": 2}), ([1.0], {"w_mr": 0, "mined": 4}), ([1.0, 0.5], {"w_mr": 0, "graded": 1}),
])
def test_and_is_content_with_those_that_it_uses(relevances, settings):
    c.make(c.RerankerSettings, settings).check_asked(relevances)


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        c.GenerateSettings().seed = 1


@pytest.mark.parametrize("preset", sorted(c.PRESETS))
def test_every_preset_is_valid(preset):
    for name, values in c.PRESETS[preset].items():
        cls = getattr(c, name)
        required = {field: "x" for field, info in cls.model_fields.items() if info.is_required()}
        assert c.make(cls, required, values)


@pytest.mark.parametrize("config", [c.RunConfig, c.TrainRerankerConfig])
def test_a_field_that_is_given_leaves_the_others_at_the_defaults_of_their_stage(config):
    given = {"queries": "q", "documents": "d"} if config is c.TrainRerankerConfig else {}
    whole, part = config(out="o", **given), config(out="o", **given, train={"accumulation": 2})
    assert part.train.model_copy(update={"accumulation": 1}) == whole.train


def test_a_field_that_came_later_counts_where_it_is_set():
    places = {"run": "r", "first": "f", "out": "o"}
    assert c.identity(c.FuseConfig(**places)) == {"weight": 0.5}
    assert c.identity(c.FuseConfig(**places, top_k=3)) == {"weight": 0.5, "top_k": 3}


def test_a_generator_that_is_to_learn_nothing_is_refused():
    with pytest.raises(ValueError, match="w_mle, w_sc and w_cal are all 0"):
        c.TrainGeneratorConfig(pairs="p", out="o", w_mle=0, w_sc=0, w_cal=0)
