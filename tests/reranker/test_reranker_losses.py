import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from readqg.reranker.losses import anchor_loss, bce_loss, graded_loss, hardest_documents, in_batch_bce_loss, margin_ranking_loss

# Query 0 scores its own document 0 and the other log 3; query 1 the other way round.
SCORES = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]], dtype=torch.float64)


def _matrix(draw_from):
    return st.integers(2, 5).flatmap(lambda b: st.lists(st.lists(draw_from, min_size=b, max_size=b), min_size=b, max_size=b))


def test_in_batch_bce_by_hand():
    # -log sigmoid(0) = log 2; -log(1 - sigmoid(log 3)) = log 4
    assert in_batch_bce_loss(SCORES).item() == pytest.approx(0.5 * (math.log(2) + math.log(4)))


def test_the_hardest_document_is_never_the_querys_own():
    scores = torch.tensor([[9.0, 1.0, 2.0], [3.0, 9.0, -1.0], [-7.0, -8.0, 9.0]])
    assert hardest_documents(scores).tolist() == [2, 0, 0]


def test_gradient_reaches_the_chosen_pairs_alone():
    scores = torch.tensor([[1.0, 0.5, 0.7], [0.1, 1.0, 0.2], [0.9, 0.3, 1.0]], requires_grad=True)
    in_batch_bce_loss(scores).backward()
    assert (scores.grad != 0).tolist() == [[True, False, True], [False, True, True], [True, False, True]]


def test_a_score_that_is_no_number_reaches_the_loss():
    scores = SCORES.clone()
    scores[0, 1] = math.nan
    assert math.isnan(in_batch_bce_loss(scores).item())


def test_large_logits_do_not_overflow():
    assert bce_loss(torch.tensor([-1e4]), torch.tensor([1e4])).item() == pytest.approx(1e4)


@given(_matrix(st.floats(-20, 20)))
def test_of_all_other_documents_the_chosen_one_costs_most(rows):
    scores = torch.tensor(rows, dtype=torch.float64)
    others = ~torch.eye(len(rows), dtype=torch.bool)
    worst = torch.nn.functional.softplus(scores).masked_fill(~others, 0).amax(dim=1).mean()
    expected = 0.5 * (torch.nn.functional.softplus(-scores.diagonal()).mean() + worst)
    assert in_batch_bce_loss(scores).item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize(
    ("sign", "activation", "expected"),
    [
        ("paper", "identity", (0 + 0.6) / 2),  # 0.1 - 2; 0.1 + 1 - 0.5
        ("authors", "identity", (2.1 + 0) / 2),
        ("paper", "sigmoid", (0 + 0.1 + 0.7310586 - 0.6224593) / 2),
        ("authors", "sigmoid", (0.1 + 0.8807971 - 0.5 + 0) / 2),
    ],
)
def test_margin_ranking_by_hand(sign, activation, expected):
    document, negative = torch.tensor([2.0, 0.5]), torch.tensor([0.0, 1.0])
    loss = margin_ranking_loss(document, negative, margin=0.1, sign=sign, activation=activation)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_losses_equal_the_reference(losses):
    reference = losses
    inputs, expected = reference["inputs"], reference["expected"]
    found = {name.split(" ")[0]: value for name, value in inputs.items()}
    scores = torch.tensor(found["scores"], dtype=torch.float64)
    query_query = torch.tensor(found["query_query"], dtype=torch.float64)
    assert in_batch_bce_loss(scores).item() == pytest.approx(expected["in_batch_bce_loss"], abs=1e-6)
    for key, value in expected["margin_ranking_loss"].items():
        sign, activation = key.split(", ")
        loss = margin_ranking_loss(scores.diagonal(), query_query, found["ranking_margin"], sign, activation)
        assert loss.item() == pytest.approx(value, abs=1e-6), key


def test_graded_queries_by_hand():
    higher, lower = torch.tensor([2.0, 0.0]), torch.tensor([2.0, math.log(3)])
    assert graded_loss(higher, lower).item() == pytest.approx(0.5 * (math.log(2) + math.log(4)))
    assert graded_loss(torch.tensor([99.0]), torch.tensor([0.0])).item() == pytest.approx(0.0), "in order and far apart costs nothing"


def test_the_anchor_by_hand():
    own, others = torch.tensor([[math.log(3)]]), torch.tensor([[0.0, -math.log(3)]])  # sigmoids 3/4; 1/2, 1/4
    start = torch.tensor([[0.0]]), torch.tensor([[0.0, 0.0]])
    expected = 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) + 0.5 * 0.5 * (
        0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    assert anchor_loss(own, others, *start).item() == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=6))
def test_the_anchor_is_least_and_0_at_the_start(rows):
    logits, start = (torch.tensor(side, dtype=torch.float64)[:, None] for side in zip(*rows, strict=True))
    assert anchor_loss(logits, logits, start, start).item() >= -1e-12
    assert anchor_loss(start, start, start, start).item() == pytest.approx(0.0, abs=1e-12)


@given(st.floats(0.1, 5.0), st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=6))
def test_with_the_anchor_eq_5_has_the_gradient_of_softened_labels(weight, rows):
    logits, start = (torch.tensor(side, dtype=torch.float64) for side in zip(*rows, strict=True))
    own, others = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    (bce_loss(own, others) + weight * anchor_loss(own, others, start, start)).backward()
    for side, label in ((own, 1.0), (others, 0.0)):
        soft = (label + weight * torch.sigmoid(start)) / (1 + weight)
        expected = (1 + weight) * 0.5 * (torch.sigmoid(logits) - soft) / len(logits)
        torch.testing.assert_close(side.grad, expected)
