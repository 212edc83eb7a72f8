"""The re-ranker's losses: in-batch binary cross-entropy (Eq. 5); the margin of a document over a hard negative query (Eq. 6).

Scores are a cross-encoder's logits F(a, b) for text pairs. `bce_loss` takes the chosen pairs alone, which is all that carries
gradient; `in_batch_bce_loss` takes the whole batch and chooses them itself. Both give the same value and gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Sign = Literal["paper", "authors"]
Activation = Literal["identity", "sigmoid"]


def hardest_documents(scores: Tensor, first: int = 0) -> Tensor:
    """k(i) of Eq. 5: for query i the highest-scored document other than its own.

    scores: (b, B) logits, row query, column document, B >= 2; row i is query `first` + i, whose document is column `first` + i.
    Returns (b,) column indices; of equal scores the first column. A NaN counts as the highest, so that it reaches the loss and
    is seen."""
    rows = torch.arange(len(scores), device=scores.device)
    hidden = scores.detach().clone()
    hidden[rows, rows + first] = -torch.inf
    return hidden.argmax(dim=1)


def bce_loss(own: Tensor, hardest: Tensor) -> Tensor:
    """Eq. 5 on the chosen pairs: 0.5 * (mean_i -log sigmoid(own_i) + mean_i -log(1 - sigmoid(hardest_i))), in nats.

    own: (B,) or (B, 1) logits F(q_i, d_i); hardest: logits F(q_i, d_k(i)) in any shape: of several other documents a query, their
    mean is taken. Returns a scalar."""
    return 0.5 * (functional.softplus(-own).mean() + functional.softplus(hardest).mean())


def in_batch_bce_loss(scores: Tensor) -> Tensor:
    """Eq. 5 with the search for k(i): scores (B, B) logits, row query i, column document j, B >= 2. Returns a scalar, in nats.

    Gradients reach the diagonal and the entries (i, k(i)) alone."""
    return bce_loss(scores.diagonal(), scores.gather(1, hardest_documents(scores)[:, None]).squeeze(1))


def anchor_loss(own: Tensor, others: Tensor, start_own: Tensor, start_others: Tensor) -> Tensor:
    """How far a model's scores have moved from its start's, in nats: 0.5 * (mean KL over `own` + mean KL over `others`), where KL is that
    of two Bernoulli variables, sigmoid(start's logit) from sigmoid(model's). Shapes are those of `bce_loss`, of which this is the
    counterpart with the start's beliefs in place of the labels. Returns a scalar; 0 where nothing has moved.

    Distillation from a frozen copy of the start, as in learning without forgetting (Hinton et al., 2015; Li & Hoiem, ECCV 2016). Of
    sigmoids and not of a softmax over a query's documents, because Eq. 5 is binary: L_bce + w * anchor has then the gradient of
    (1 + w) * Eq. 5 with the label (y + w * sigmoid(start)) / (1 + w), and the level of the logits, which Eq. 5 moves, is held too."""
    return 0.5 * (_bernoulli_kl(start_own, own).mean() + _bernoulli_kl(start_others, others).mean())


def graded_loss(higher: Tensor, lower: Tensor) -> Tensor:
    """Queries of one document, asked at different r, in the order of r: mean -log sigmoid(higher - lower), in nats.

    higher, lower: (n,) logits F(q, d) of pairs of queries of a document, the first asked at the higher r. Returns a scalar. RankNet
    (Burges et al., ICML 2005, Eq. 3, with a target probability of 1): r orders a document's queries, and says nothing of how far apart
    they are, for it was scaled within each passage."""
    return functional.softplus(lower - higher).mean()


def _bernoulli_kl(start: Tensor, logits: Tensor) -> Tensor:
    positive = functional.softplus(-logits) - functional.softplus(-start)
    negative = functional.softplus(logits) - functional.softplus(start)
    return torch.sigmoid(start) * positive + torch.sigmoid(-start) * negative


def margin_ranking_loss(
    query_document: Tensor, query_query: Tensor, margin: float = 0.0, sign: Sign = "paper", activation: Activation = "identity"
) -> Tensor:
    """Eq. 6, a mean over the batch (the paper prints a sum). `a` is the activation:

    - sign "paper": mean_i max(0, margin + a(F(q_i, n_i)) - a(F(q_i, d_i))): the document above the hard negative query;
    - sign "authors": mean_i max(0, margin + a(F(q_i, d_i)) - a(F(q_i, n_i))): turned, as in the released code.

    query_document: (B,) logits F(q_i, d_i); query_query: (B,) logits F(q_i, n_i), or F(n_i, d_i) where the negative query takes
    the query's place. Returns a scalar."""
    document, negative = (torch.sigmoid(s) if activation == "sigmoid" else s for s in (query_document, query_query))
    difference = negative - document if sign == "paper" else document - negative
    return functional.relu(margin + difference).mean()
