"""The keyed sampler draws from the right distribution, and a draw hangs on its own key alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from readqg.generator.sampling import FailedItems, Greedy, KeyedTopK, gumbel_noise, row_key

END = 1
NO_IDS = torch.empty(0, dtype=torch.long)


def draw(scores: torch.Tensor, keys: list[int], top_k: int, temperature: float = 1.0, step: int = 0) -> list[int]:
    """Tokens (B,) that a fresh sampler chooses for scores (B, V) at a step."""
    tokens, _ = KeyedTopK(END, keys, top_k, temperature)(scores, torch.arange(len(scores)), step)
    return tokens.tolist()


def keys_of(count: int, **changes: object) -> list[int]:
    return [row_key(**{"seed": 0, "doc_id": f"d{i}", "relevance": 1.0, "sample": 0, **changes}) for i in range(count)]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_softmax_of_the_k_most_likely(temperature: float) -> None:
    rows, top_k = 20_000, 10
    logits = torch.randn(60, generator=torch.Generator().manual_seed(3)) * 1.5
    kept = logits.topk(top_k).indices
    expected = torch.softmax(logits[kept].double() / temperature, dim=0).numpy() * rows
    drawn = np.bincount(draw(logits.expand(rows, -1), keys_of(rows), top_k, temperature), minlength=60)
    assert drawn.sum() == drawn[kept].sum()
    assert stats.chisquare(drawn[kept], expected).pvalue > 1e-3


@pytest.mark.parametrize("vary", ["step", "sample", "relevance", "seed", "doc_id"])
def test_draws_that_differ_in_one_part_of_the_key_are_independent(vary: str) -> None:
    rows = 4_000
    scores = torch.zeros(rows, 4)
    first = draw(scores, keys_of(rows), 4)
    other = {
        "step": lambda: draw(scores, keys_of(rows), 4, step=1),
        "sample": lambda: draw(scores, keys_of(rows, sample=1), 4),
        "relevance": lambda: draw(scores, keys_of(rows, relevance=0.9), 4),
        "seed": lambda: draw(scores, keys_of(rows, seed=1), 4),
        "doc_id": lambda: draw(scores, keys_of(rows)[::-1], 4),
    }[vary]()
    table = np.histogram2d(first, other, bins=4)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_noise_is_standard_gumbel() -> None:
    keys, entries = np.meshgrid(np.array(keys_of(100), dtype=np.uint64), np.arange(100, dtype=np.uint64))
    noise = gumbel_noise(keys.ravel(), 7, entries.ravel())
    assert np.isfinite(noise).all()
    assert stats.kstest(noise, "gumbel_r").pvalue > 1e-3


def test_noise_is_the_same_on_every_machine_and_in_every_version() -> None:
    keys = np.array([row_key(0, "doc", 1.0, 0), row_key(42, "déjà", 0.3, 2)], dtype=np.uint64)
    assert keys.tolist() == [11593592692983467502, 14465840684759701945]
    noise = gumbel_noise(keys, 5, np.array([0, 49_151], dtype=np.uint64))
    assert noise.tolist() == pytest.approx([-0.33881640905845434, 2.6179136866133406], rel=1e-12)


def test_relevances_of_a_computed_grid_have_the_keys_of_the_written_ones() -> None:
    written = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert [row_key(0, "d", i * 0.1, 0) for i in range(11)] == [row_key(0, "d", r, 0) for r in written]


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(list(range(6))), kept=st.integers(1, 6), step=st.integers(0, 100), top_k=st.integers(1, 40))
def test_a_draw_does_not_depend_on_the_rows_beside_it(order: list[int], kept: int, step: int, top_k: int) -> None:
    scores = torch.randn(6, 40, generator=torch.Generator().manual_seed(step))
    keys = keys_of(6)
    alone = draw(scores, keys, top_k, step=step)
    chosen = order[:kept]
    assert draw(scores[chosen], [keys[i] for i in chosen], top_k, step=step) == [alone[i] for i in chosen]


def test_global_random_state_is_neither_used_nor_changed() -> None:
    scores = torch.zeros(50, 8)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(scores, keys_of(50), 8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.random.seed(2)
    assert draw(scores, keys_of(50), 8) == first


def test_entries_that_tie_with_the_kth_can_all_be_drawn() -> None:
    scores = torch.tensor([[2.0, 1.0, 1.0, 1.0, -5.0]]).expand(2_000, -1)
    assert set(draw(scores, keys_of(2_000), 2)) == {0, 1, 2, 3}


def test_k_of_one_is_greedy_and_k_may_exceed_the_vocabulary() -> None:
    scores = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))
    assert draw(scores, keys_of(30), 1) == scores.argmax(dim=-1).tolist()
    assert len(set(draw(torch.zeros(500, 12), keys_of(500), 100))) == 12


@pytest.mark.parametrize("chooser", [Greedy(END), KeyedTopK(END, keys_of(3), top_k=2, temperature=0.3)])
def test_log_probabilities_are_the_unfiltered_models_at_temperature_one(chooser: Greedy) -> None:
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    tokens, log_probs = chooser(scores, torch.arange(3), 0)
    torch.testing.assert_close(log_probs, torch.log_softmax(scores, dim=-1).gather(1, tokens[:, None]).squeeze(1))


def test_a_row_that_has_moved_up_keeps_its_key() -> None:
    scores = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    chooser = KeyedTopK(END, keys_of(6), top_k=12, temperature=3.0)
    whole, _ = chooser(scores, torch.arange(6), 4)
    rows = torch.tensor([1, 4, 5])
    assert chooser(scores[rows], rows, 4)[0].tolist() == whole[rows].tolist()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("chooser", [Greedy(END), KeyedTopK(END, keys_of(3), top_k=4, temperature=1.0)])
def test_a_row_with_a_broken_logit_ends_and_the_others_go_on(chooser: Greedy, broken: float) -> None:
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    sound, _ = chooser(scores.clone(), torch.arange(3), 0)
    scores[1, 4] = broken
    tokens, log_probs = chooser(scores, torch.arange(3), 0)
    assert tokens[1] == END
    assert log_probs.isnan().tolist() == [False, True, False]
    assert tokens[[0, 2]].tolist() == sound[[0, 2]].tolist()


def test_one_broken_beam_fails_its_item_and_no_other() -> None:
    scores = torch.log_softmax(torch.randn(6, 9, generator=torch.Generator().manual_seed(0)), dim=-1)
    guard = FailedItems(END, beams=2)
    assert torch.equal(guard(NO_IDS, scores), scores)
    broken = scores.clone()
    broken[3] = torch.nan
    after = guard(NO_IDS, broken)
    assert guard.failed is not None and guard.failed.tolist() == [False, True, False]
    assert after[3].argmax() == END and not after.isnan().any()
    assert torch.equal(after[[0, 1, 2, 4, 5]], scores[[0, 1, 2, 4, 5]])
    guard(NO_IDS, scores)
    assert guard.failed.tolist() == [False, True, False]
