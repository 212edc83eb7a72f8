"""Eq. 2 to 4: their values, and that the paper's forms do not see padding."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from readqg.generator.losses import calibration_loss, mle_loss, self_contrastive_loss, sequence_log_likelihood, token_log_likelihoods
from readqg.generator.prompts import RelevancePrompt

PROFILES = ["paper", "authors"]


@pytest.fixture(scope="module")
def reference(losses: dict[str, Any]) -> dict[str, Any]:
    """Inputs as float64 tensors, expected values as they are; keys lose the shape that they name."""
    content = losses
    inputs = {key.split(" ")[0].rstrip(","): value for key, value in content["inputs"].items()}
    expected = {key.split(" ")[0]: value for key, value in content["expected"].items()}
    for name in ("logits", "reverse_logits", "states", "P_plus", "P_minus", "relevance"):
        inputs[name] = torch.tensor(inputs[name], dtype=torch.float64)
    for name in ("labels", "reverse_labels", "groups", "mask", "is_positive"):
        inputs[name] = torch.tensor(inputs[name])
    inputs["is_positive"] = inputs["is_positive"].bool()
    return {"inputs": inputs, "expected": expected}


def close(found: Tensor, expected: Any) -> bool:
    return torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_log_likelihoods_equal_the_reference(reference: dict[str, Any]) -> None:
    x, expected = reference["inputs"], reference["expected"]
    assert close(sequence_log_likelihood(x["logits"], x["labels"]), expected["sequence_log_likelihood"])
    assert close(sequence_log_likelihood(x["reverse_logits"], x["reverse_labels"]), expected["reverse_log_likelihood"])


@pytest.mark.parametrize("profile", PROFILES)
def test_losses_equal_the_reference(reference: dict[str, Any], profile: Any) -> None:
    x, expected = reference["inputs"], reference["expected"]
    forward = sequence_log_likelihood(x["logits"], x["labels"])
    reverse = sequence_log_likelihood(x["reverse_logits"], x["reverse_labels"])
    assert close(mle_loss(x["logits"], x["labels"], x["is_positive"], profile=profile), expected["mle_loss"][profile])
    contrast = self_contrastive_loss(x["states"], x["mask"], temperature=x["temperature"], profile=profile)
    assert close(contrast, expected["self_contrastive_loss"][profile])
    calibration = calibration_loss(
        forward, reverse, x["is_positive"], margin=x["calibration_margin"], target_length=x["labels"].shape[1], profile=profile)
    assert close(calibration, expected["calibration_loss"][profile])


def test_grouped_contrast_and_relevance_prompt_equal_the_reference(reference: dict[str, Any]) -> None:
    x, expected = reference["inputs"], reference["expected"]
    contrast = self_contrastive_loss(x["states"], x["mask"], temperature=x["temperature"], profile="paper", groups=x["groups"])
    assert close(contrast, expected["self_contrastive_loss"]["paper, groups"])
    assert close(RelevancePrompt(x["P_plus"], x["P_minus"])(x["relevance"]), expected["relevance_prompt"])


def coin(*probabilities: float) -> list[list[float]]:
    """Logits over two tokens, of which token 1 has these probabilities."""
    return [[math.log(1 - p), math.log(p)] for p in probabilities]


LOGITS = torch.tensor([coin(0.5, 0.25), coin(0.5, 0.9)], dtype=torch.float64)
LABELS = torch.tensor([[1, 0], [1, -100]])
IS_POSITIVE = torch.tensor([True, False])


def test_log_likelihood_sums_over_real_tokens() -> None:
    assert close(sequence_log_likelihood(LOGITS, LABELS), [math.log(0.5) + math.log(0.75), math.log(0.5)])
    assert close(token_log_likelihoods(LOGITS, LABELS), [[math.log(0.5), math.log(0.75)], [math.log(0.5), 0.0]])


@pytest.mark.parametrize("kind", [True, False])
def test_a_kind_that_is_absent_has_no_part_in_the_authors_means(kind: bool) -> None:
    alone = torch.tensor([kind, kind])
    first, second = -math.log(0.5) - math.log(0.75), -math.log(0.5)
    assert close(mle_loss(LOGITS, LABELS, alone, profile="authors"), (first + second) / 2 / 2)
    sums = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    assert close(calibration_loss(sums, sums + 1, alone, margin=1.0, target_length=4, profile="authors"), 2 / 4)


def test_mle_is_a_mean_over_tokens_in_paper_and_over_padded_lengths_in_authors() -> None:
    first, second = -math.log(0.5) - math.log(0.75), -math.log(0.5)
    assert close(mle_loss(LOGITS, LABELS, IS_POSITIVE, profile="paper"), (first + second) / 3)
    assert close(mle_loss(LOGITS, LABELS, IS_POSITIVE, profile="authors"), 0.5 * (first + second) / 2)


def test_authors_losses_weigh_both_kinds_alike_however_many_there_are() -> None:
    forward, reverse = torch.tensor([-1.0, -2.0, -3.0]).double(), torch.tensor([-1.0, -9.0, -2.5]).double()
    kinds = torch.tensor([True, True, False])
    hinges = [1.0, 0.0, 1.5]
    assert close(calibration_loss(forward, reverse, kinds, margin=1.0, target_length=10), sum(hinges) / 3)
    found = calibration_loss(forward, reverse, kinds, margin=1.0, target_length=10, profile="authors")
    assert close(found, 0.5 * (0.5 + 1.5) / 10)


def test_contrast_of_two_orthogonal_encodings() -> None:
    states = torch.tensor([[[3.0, 0.0], [9.0, 9.0]], [[0.0, 1.0], [0.0, 1.0]]], dtype=torch.float64)
    mask = torch.tensor([[1, 0], [1, 1]])
    tau = 0.5
    assert close(self_contrastive_loss(states, mask, temperature=tau), math.log1p(math.exp(-1 / tau)))
    # authors: (3, 0) / 2 and (0, 2) / 2, each over tau; the cross term is 0
    own = [(1.5 / tau) ** 2, (1.0 / tau) ** 2]
    assert close(self_contrastive_loss(states, mask, temperature=tau, profile="authors"), sum(math.log1p(math.exp(-o)) for o in own) / 2)


def test_twins_do_not_repel_each_other() -> None:
    torch.manual_seed(0)
    states, mask = torch.randn(3, 4, 5).double(), torch.ones(3, 4)
    once = self_contrastive_loss(states[:2], mask[:2], temperature=0.25)
    twice = self_contrastive_loss(states[[0, 0]], mask[:2], temperature=0.25, groups=torch.tensor([7, 7]))
    assert close(twice, 0.0) and once > 0.01
    assert close(self_contrastive_loss(states[:2], mask[:2], temperature=0.25, groups=torch.tensor([0, 1])), float(once))


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.randn(4, 8, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    labels = torch.arange(32).view(4, 8)
    found = sequence_log_likelihood(logits, labels)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), sequence_log_likelihood(logits.double(), labels), atol=1e-4)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), more=st.integers(1, 5), lengths=st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_paper_losses_do_not_see_padding(seed: int, more: int, lengths: list[int]) -> None:
    rng = torch.Generator().manual_seed(seed)
    kinds = torch.tensor([True, False, True, False])
    logits, reverse_logits, states = (torch.randn(4, 5, 6, generator=rng).double() for _ in range(3))
    labels = torch.randint(0, 6, (4, 5), generator=rng)
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
    labels[mask == 0] = -100

    def losses(logits: Tensor, reverse_logits: Tensor, labels: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        forward, reverse = sequence_log_likelihood(logits, labels), sequence_log_likelihood(reverse_logits, labels)
        return torch.stack([
            mle_loss(logits, labels, kinds), self_contrastive_loss(states, mask, temperature=0.25),
            calibration_loss(forward, reverse, kinds, margin=1.0, target_length=labels.shape[1])])

    def longer(x: Tensor, value: float | None = None) -> Tensor:
        shape = (4, more, *x.shape[2:])
        return torch.cat([x, torch.randn(shape, generator=rng) * 50 if value is None else torch.full(shape, value, dtype=x.dtype)], 1)

    plain = losses(logits, reverse_logits, labels, states, mask)
    more_padded = losses(longer(logits), longer(reverse_logits), longer(labels, -100), longer(states), longer(mask, 0))
    assert torch.allclose(plain, more_padded, rtol=1e-12, atol=1e-12)
    on_the_left = self_contrastive_loss(longer(states).flip(1), longer(mask, 0).flip(1), temperature=0.25)
    assert torch.allclose(plain[1], on_the_left, rtol=1e-12, atol=1e-12)


def test_authors_losses_do_see_padding() -> None:
    wider = torch.cat([LOGITS, LOGITS], 1), torch.cat([LABELS, torch.full_like(LABELS, -100)], 1)
    plain = mle_loss(LOGITS, LABELS, IS_POSITIVE, profile="authors")
    assert torch.isclose(mle_loss(*wider, IS_POSITIVE, profile="authors"), plain / 2)
