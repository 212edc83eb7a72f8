"""Which token comes next: greedy, and top-k sampling whose noise is keyed; and what keeps a beam search sound.

Sampling from a categorical distribution is the same as taking the argmax of its log-probabilities plus Gumbel noise (the
Gumbel-max trick: Gumbel, 1954). Here the noise of a vocabulary entry is a hash of (seed, doc_id, relevance, sample, step,
entry), so a query does not depend on what else is in its batch, on the order, on the shard or on any global random state, and
a run that is killed and begun again writes the same queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import LogitsProcessor

from readqg.shards import stable_hash

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def row_key(seed: int, doc_id: str, relevance: float, sample: int) -> int:
    """The 64-bit key of one query's noise. Relevances that agree to six digits are the same relevance."""
    return stable_hash(f"{relevance:.6f}/{sample}/{doc_id}", seed)


def gumbel_noise(keys: npt.NDArray[np.uint64], step: int, entries: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise of vocabulary entries (n,) under the row keys (n,) at a step (0-based); shape (n,).

    The counter is hashed with SplitMix64's finaliser (Steele, Lea & Flood, 2014), once for the step and once for the entry."""
    with np.errstate(over="ignore"):
        of_step = _mix(keys + _GOLDEN * np.uint64(step + 1))
        bits = _mix(of_step + _GOLDEN * (entries + np.uint64(1)))
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # in (0, 1), both ends excluded
    return -np.log(-np.log(uniform))


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


class Greedy:
    """Chooses the most likely token. Called with raw float32 logits (n, V), the rows of the batch they are of (n,) and the step
    (0-based); returns tokens (n,) and what the unfiltered model thought of them, (n,) nats, temperature 1.

    Rows whose logits are not finite get `end_id` and a log-probability of NaN; the other rows of the batch go on."""

    def __init__(self, end_id: int) -> None:
        self.end_id = end_id

    def choose(self, scores: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        """Token ids (n,)."""
        return scores.argmax(dim=-1)

    def __call__(self, scores: torch.Tensor, rows: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        normaliser = scores.logsumexp(dim=-1)
        sound = normaliser.isfinite()
        tokens = torch.where(sound, self.choose(scores, rows, step), self.end_id)
        chosen = scores.gather(1, tokens[:, None]).squeeze(1) - normaliser
        return tokens, torch.where(sound, chosen, torch.nan)


class KeyedTopK(Greedy):
    """Draws from the k most likely tokens, at a temperature, with the noise of the row's key; `keys[i]` is that of row i.

    Entries that tie with the k-th stay in, as in the library's own filter, so the draw does not hang on how ties are sorted."""

    def __init__(self, end_id: int, keys: Sequence[int], top_k: int, temperature: float) -> None:
        super().__init__(end_id)
        self.keys = np.array(keys, dtype=np.uint64)
        self.top_k, self.temperature = top_k, temperature

    def choose(self, scores: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        threshold = scores.topk(min(self.top_k, scores.shape[1]), dim=-1).values[:, -1:]
        places, entries = (scores >= threshold).nonzero(as_tuple=True)
        keys = self.keys[rows[places].cpu().numpy()]
        noise = gumbel_noise(keys, step, entries.cpu().numpy().astype(np.uint64))
        perturbed = scores[places, entries].double() / self.temperature + torch.from_numpy(noise).to(scores.device)
        kept = torch.full_like(scores, -torch.inf, dtype=torch.float64)
        kept[places, entries] = perturbed
        return kept.argmax(dim=-1)


class FailedItems(LogitsProcessor):
    """For beam search: an item any of whose beams has logits that are not finite is ended at once and noted.

    Called with scores (items * beams, V), log-softmax of the logits. `failed` is (items,) bool after the first call."""

    def __init__(self, end_id: int, beams: int) -> None:
        self.end_id, self.beams = end_id, beams
        self.failed: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        unsound = ~scores.logsumexp(dim=-1).isfinite()
        if self.failed is None:
            self.failed = torch.zeros(len(scores) // self.beams, dtype=torch.bool, device=scores.device)
        self.failed |= unsound.view(-1, self.beams).any(dim=1)
        ended = only(torch.full_like(unsound, self.end_id, dtype=torch.long), scores)
        return torch.where(unsound[:, None], ended, scores)


def only(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Scores (B, V) that leave one token of (B,) a row: 0 there, -inf elsewhere."""
    return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)
