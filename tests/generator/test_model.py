"""The generator over its frozen backbone: what goes in, that it is the backbone's own computation, and what trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from readqg.config import GeneratorSettings
from readqg.errors import ModelError
from readqg.generator.backbone import Backbone
from readqg.generator.losses import IGNORED
from readqg.generator.model import Generator, padded
from readqg.generator.prompts import SoftPrompt
from tests.builders import tiny_llama, tiny_t5

BACKBONES: dict[str, Callable[[Path], Path]] = {
    "T5, tied head": lambda folder: tiny_t5(folder, tied=True),
    "T5, untied head": lambda folder: tiny_t5(folder, tied=False),
    "Llama, tied head": lambda folder: tiny_llama(folder, tied=True),
    "Llama, untied head": lambda folder: tiny_llama(folder, tied=False),
}
INSTRUCTION = "what is of"
TEXTS = ["the wing of the boundary layer", "heat"]
QUERIES = ["what is the flow", "is the shock wave relevant"]


@pytest.fixture(scope="module", params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(BACKBONES[request.param](tmp_path_factory.mktemp("backbone")), dtype=torch.float64)


def make(backbone: Backbone, dropout: bool = False, **changes: Any) -> Generator:
    """A generator whose prompts are the embeddings of real tokens: the instruction's, "true"'s and "false"'s."""
    settings = GeneratorSettings(n_relevance=2, n_instruction=3, instruction=INSTRUCTION, **changes)
    return Generator(backbone, SoftPrompt.initial(backbone, settings), dropout).eval()


def prompt_ids(backbone: Backbone, relevance: float) -> list[int]:
    word = backbone.token_ids("true" if relevance == 1.0 else "false")
    return backbone.token_ids(INSTRUCTION)[:3] + (word * 2)[:2]


def backbone_alone(backbone: Backbone, prefix: list[int], target: list[int]) -> tuple[float, float]:
    """S and the library's own loss of `target` after `prefix`, from token ids, one sequence without padding."""
    if backbone.kind == "encoder-decoder":
        out = backbone.lm(input_ids=torch.tensor([prefix]), labels=torch.tensor([target]))
        logits = out.logits[0]
    else:
        labels = [IGNORED] * len(prefix) + target
        out = backbone.lm(input_ids=torch.tensor([prefix + target]), labels=torch.tensor([labels]))
        logits = out.logits[0, len(prefix) - 1 : -1]
    tokens = logits.log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)]
    return float(tokens.sum()), float(out.loss)


def tail(backbone: Backbone) -> list[int]:
    return [backbone.end_id] if backbone.kind == "encoder-decoder" else backbone.token_ids("\nQuestion:")


@pytest.mark.parametrize("relevance", [1.0, 0.0])
def test_prompts_of_real_tokens_give_the_backbones_own_likelihoods(backbone: Backbone, relevance: float) -> None:
    generator = make(backbone)
    found = generator.log_likelihoods(TEXTS, [relevance] * 2, QUERIES, document_tokens=99, query_tokens=99)
    for s, text, query in zip(found.tolist(), TEXTS, QUERIES, strict=True):
        prefix = prompt_ids(backbone, relevance) + backbone.token_ids(text) + tail(backbone)
        target = generator.target_ids(query, 99)
        expected, loss = backbone_alone(backbone, prefix, target)
        assert s == pytest.approx(expected, abs=1e-6)
        assert -s / len(target) == pytest.approx(loss, abs=1e-6)


def test_relevance_changes_the_likelihood(backbone: Backbone) -> None:
    found = make(backbone).log_likelihoods(TEXTS[:1] * 3, [0.0, 0.5, 1.0], QUERIES[:1] * 3, document_tokens=99, query_tokens=99)
    assert len(set(found.tolist())) == 3


def test_an_untied_head_is_kept(tmp_path: Path) -> None:
    lm = Backbone.load(tiny_t5(tmp_path, tied=False)).lm
    assert not torch.equal(lm.lm_head.weight, lm.shared.weight)


def test_the_input_is_prompts_document_and_tail_padded_on_the_backbones_side(backbone: Backbone) -> None:
    generator = make(backbone)
    documents = [[5, 6, 7], [8]]
    ids, mask = padded(documents, 0, multiple=8)
    embeddings, mask = generator.embed_documents(ids, mask, torch.tensor([1.0, 0.0]))
    prompts = generator.prompts(torch.tensor([1.0, 0.0])).double()
    for row, document in enumerate(documents):
        expected = torch.cat([prompts[row], backbone.embed(torch.tensor(document + tail(backbone)))])
        length = len(expected)
        places = slice(0, length) if backbone.kind == "encoder-decoder" else slice(-length, None)
        assert torch.equal(embeddings[row, places], expected)
        assert mask[row, places].all() and mask[row].sum() == length


def test_a_documents_padding_may_lie_on_either_side(backbone: Backbone) -> None:
    generator = make(backbone)
    right, left = torch.tensor([[5, 6, 0, 0]]), torch.tensor([[0, 0, 5, 6]])
    relevance, index, labels = torch.tensor([0.3]), torch.tensor([0]), torch.tensor([[7, 8]])
    found = [generator.token_log_likelihoods(generator.encode(ids, (ids > 0).long(), relevance), index, labels) for ids in (right, left)]
    assert torch.equal(*found)


def test_padding_changes_no_likelihood(backbone: Backbone) -> None:
    generator = make(backbone)
    together = generator.log_likelihoods(TEXTS, [1.0, 0.2], QUERIES, document_tokens=99, query_tokens=99)
    alone = [generator.log_likelihoods([t], [r], [q], document_tokens=99, query_tokens=99)
             for t, r, q in zip(TEXTS, [1.0, 0.2], QUERIES, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-9)


def test_states_for_the_contrast_leave_out_padding_and_separator(backbone: Backbone) -> None:
    generator = make(backbone)
    ids, mask = padded([[5, 6, 7], [8]], 0, multiple=8)
    encoded = generator.encode(ids, mask, torch.tensor([1.0, 1.0]))
    end = 1 if backbone.kind == "encoder-decoder" else 0
    assert encoded.mask.sum(1).tolist() == [5 + 3 + end, 5 + 1 + end]
    short = backbone.lm.base_model if backbone.kind == "decoder-only" else backbone.lm.get_encoder()
    alone = short(input_ids=torch.tensor([prompt_ids(backbone, 1.0) + [8] + [backbone.end_id] * end])).last_hidden_state[0]
    assert torch.allclose(encoded.states[1][encoded.mask[1].bool()], alone, atol=1e-9)


def test_one_encoding_serves_many_queries(backbone: Backbone) -> None:
    """The cache that queries are scored on must not grow by them: a second call finds what the first found."""
    generator = make(backbone)
    ids, mask = padded([[5, 6, 7], [8]], 0)
    encoded = generator.encode(ids, mask, torch.tensor([1.0, 0.0]))
    labels, _ = padded([[9, 4, 1], [7, 1], [9, 4, 1]], IGNORED)
    first = generator.token_log_likelihoods(encoded, torch.tensor([0, 1, 1]), labels)
    again = generator.token_log_likelihoods(encoded, torch.tensor([1, 0]), labels[:2])
    assert torch.allclose(first[2], again[0], atol=1e-12) and not torch.allclose(first[0], again[0])


def test_a_query_ends_with_the_end_token_and_is_cut_before_it(backbone: Backbone) -> None:
    generator = make(backbone)
    whole, cut = generator.target_ids("what is the flow", 99), generator.target_ids("what is the flow", 3)
    assert whole[-1] == backbone.end_id and backbone.end_id not in whole[:-1]
    assert cut == [*whole[:2], backbone.end_id]


def test_a_decoder_only_query_is_tokenised_as_it_follows_the_separator(tmp_path: Path) -> None:
    generator = make(Backbone.load(tiny_llama(tmp_path)))
    ids = generator.target_ids("what", 99)
    assert generator.tokenizer.decode([*generator.backbone.token_ids("\nQuestion:"), *ids[:-1]]) == "\nQuestion: what"


def test_only_the_prompts_are_parameters_and_state(backbone: Backbone) -> None:
    generator = make(backbone)
    names = {"prompts.instruction", "prompts.relevance.plus", "prompts.relevance.minus"}
    assert {name for name, _ in generator.named_parameters()} == names == set(generator.state_dict())
    assert [name for name, _ in generator.named_children()] == ["prompts"]


def test_gradients_reach_the_prompts_and_nothing_else(backbone: Backbone) -> None:
    generator = make(backbone).train()
    generator.log_likelihoods(TEXTS, [0.7, 0.2], QUERIES, document_tokens=99, query_tokens=99).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in backbone.lm.parameters())


def test_gradients_through_the_prefix_are_the_whole_derivative(backbone: Backbone) -> None:
    """Queries see the prompts through the encoder, or the cached keys and values: compared with finite differences."""
    generator = make(backbone).train()

    def likelihood() -> Tensor:
        return generator.log_likelihoods(TEXTS, [0.7, 0.2], QUERIES, document_tokens=99, query_tokens=99).sum()

    likelihood().backward()
    for parameter in generator.parameters():
        direction, step = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), 1e-3
        with torch.no_grad():
            parameter += step * direction
            above = likelihood()
            parameter -= 2 * step * direction
            below = likelihood()
            parameter += step * direction
        assert float((above - below) / (2 * step)) == pytest.approx(float((parameter.grad * direction).sum()), rel=2e-2, abs=1e-3)


def test_left_padding_gives_finite_gradients_in_bf16(tmp_path: Path) -> None:
    generator = make(Backbone.load(tiny_llama(tmp_path), dtype=torch.bfloat16)).train()
    generator.log_likelihoods(["a " * 30, "b"], [0.7, 0.2], QUERIES, document_tokens=99, query_tokens=99).sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in generator.parameters())


def test_dropout_is_on_only_when_asked_for_and_only_in_training(tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_t5(tmp_path))

    def differs(generator: Generator) -> bool:
        runs = [generator.log_likelihoods(TEXTS, [1.0, 0.0], QUERIES, document_tokens=99, query_tokens=99) for _ in range(2)]
        return not torch.equal(*runs)

    assert differs(make(backbone, dropout=True).train())
    assert not differs(make(backbone, dropout=True).eval())
    assert not differs(make(backbone, dropout=False).train())


def test_saved_prompts_make_the_same_generator(backbone: Backbone, tmp_path: Path) -> None:
    generator = make(backbone)
    generator.prompts.save(tmp_path)
    loaded = Generator.load(backbone.name, tmp_path, dtype=torch.float64)
    asked = (TEXTS, [0.4, 0.6], QUERIES)
    assert torch.equal(*(g.log_likelihoods(*asked, document_tokens=9, query_tokens=9) for g in (generator, loaded)))
    assert not loaded.training


def test_a_decoder_only_backbone_needs_a_separator(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs a separator"):
        make(Backbone.load(tiny_llama(tmp_path)), separator="")


def test_a_folder_that_is_no_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        Backbone.load(tmp_path)
