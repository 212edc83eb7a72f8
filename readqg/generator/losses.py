"""The three losses of the generator (section 3.2): Eq. 2 maximum likelihood, Eq. 3 self-contrastive, Eq. 4 calibration.

Each takes whole vectors over the N sequences (documents x 2m) of a step, so a global batch gathered over workers needs no
other code. Log-likelihoods are in nats; what is summed or averaged stands in each docstring. `profile` is "paper" or "authors"
(the released code); the paper's forms do not change with padding, the authors' divide by padded lengths and do.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Profile = Literal["paper", "authors"]
IGNORED = -100


def token_log_likelihoods(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(q_t | q_<t, d, r) of every target token: logits (N, T, V), labels (N, T) with -100 for padding -> (N, T), nats, 0
    at padding. In float32 at least. The softmax is taken at target positions only."""
    real = labels != IGNORED
    chosen = logits[real]
    if chosen.dtype in (torch.bfloat16, torch.float16):
        chosen = chosen.float()
    values = -F.cross_entropy(chosen, labels[real], reduction="none")
    return torch.zeros(labels.shape, dtype=values.dtype, device=values.device).masked_scatter(real, values)


def sequence_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """S(q | d, r) = sum_t log p(q_t | q_<t, d, r), end token included: logits (N, T, V), labels (N, T) with -100 for padding
    -> (N,), nats."""
    return token_log_likelihoods(logits, labels).sum(-1)


def mle_loss(logits: Tensor, labels: Tensor, is_positive: Tensor, *, profile: Profile = "paper") -> Tensor:
    """Eq. 2 from logits (N, T, V), labels (N, T) with -100 for padding and is_positive (N,) bool; see `mle_loss_from_sums`."""
    sums, lengths = sequence_log_likelihood(logits, labels), (labels != IGNORED).sum(-1)
    return mle_loss_from_sums(sums, lengths, is_positive, target_length=labels.shape[1], profile=profile)


def mle_loss_from_sums(
    sums: Tensor, lengths: Tensor, is_positive: Tensor, *, target_length: int, profile: Profile = "paper",
) -> Tensor:
    """Eq. 2 from S of every sequence (N,), nats, and its number of target tokens (N,).

    "paper": mean over all target tokens of -log p. "authors": 0.5 * (mean over positives of -S + mean over negatives of -S)
    / target_length, the padded one. Scalar, nats a token."""
    if profile == "paper":
        return -sums.sum() / lengths.sum()
    return _mean_of_kinds(-sums, is_positive) / target_length


def pool(states: Tensor, mask: Tensor, *, profile: Profile = "paper", padded_length: int | None = None) -> Tensor:
    """One vector a sequence, in float32 at least: states (N, S, H), mask (N, S) -> (N, H).

    "paper": mean over unmasked positions. "authors": sum over them, divided by `padded_length` (None: S)."""
    if states.dtype in (torch.bfloat16, torch.float16):
        states = states.float()
    mask = mask.bool()
    total = states.masked_fill(~mask.unsqueeze(-1), 0.0).sum(1)
    length = mask.sum(1, keepdim=True).clamp(min=1) if profile == "paper" else padded_length or states.shape[1]
    return total / length


def self_contrastive_loss(
    states: Tensor, mask: Tensor, *, temperature: float, profile: Profile = "paper", groups: Tensor | None = None,
) -> Tensor:
    """Eq. 3 over the encodings of a batch: states (N, S, H), mask (N, S), groups (N,) int or None; see
    `self_contrastive_loss_from_pooled`."""
    pooled = pool(states, mask, profile=profile)
    return self_contrastive_loss_from_pooled(pooled, temperature=temperature, profile=profile, groups=groups)


def self_contrastive_loss_from_pooled(
    pooled: Tensor, *, temperature: float, profile: Profile = "paper", groups: Tensor | None = None,
) -> Tensor:
    """mean_i -log( exp(f(h_i, h_i) / tau) / sum_j exp(f(h_i, h_j) / tau) ) over pooled encodings (N, H).

    f is the cosine ("paper") or the dot product of both sides divided by tau, so dot / tau^2 in all ("authors"). Sequences of the
    same group are one (document, relevance): they are left out of each other's denominator. Scalar, nats."""
    sides = F.normalize(pooled, dim=-1) if profile == "paper" else pooled / temperature
    scores = sides @ sides.T if profile == "authors" else sides @ sides.T / temperature
    own = scores.diagonal()
    if groups is not None:
        twins = (groups[:, None] == groups[None, :]) & ~torch.eye(len(groups), dtype=torch.bool, device=groups.device)
        scores = scores.masked_fill(twins, float("-inf"))
    return (scores.logsumexp(-1) - own).mean()


def calibration_loss(
    forward: Tensor, reverse: Tensor, is_positive: Tensor, *, margin: float, target_length: int, profile: Profile = "paper",
) -> Tensor:
    """Eq. 4: hinge_i = max(0, margin - S_fw + S_rev), where S_fw = S(q_i | d, r_i) and S_rev is the log-likelihood of the
    contradicting query of the same document under the same r_i; both (N,), nats.

    "paper": mean over i. "authors": 0.5 * (mean over positives + mean over negatives) / target_length (the padded one).
    Scalar, nats."""
    hinge = (margin - forward + reverse).clamp(min=0.0)
    if profile == "paper":
        return hinge.mean()
    return _mean_of_kinds(hinge, is_positive) / target_length


def _mean_of_kinds(values: Tensor, is_positive: Tensor) -> Tensor:
    """Positives and negatives count as much as each other; where only one kind is there, as without relevance, it counts alone."""
    kinds = [kind.mean() for kind in (values[is_positive], values[~is_positive]) if len(kind)]
    return torch.stack(kinds).mean()
