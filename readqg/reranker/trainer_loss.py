"""Eq. 5 with Eq. 6 as a loss of sentence-transformers, for those who train with its `CrossEncoderTrainer`."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch.nn.functional import softplus

from readqg.reranker.losses import Activation, Sign, bce_loss, hardest_documents, margin_ranking_loss


class RelevanceAwareLoss(nn.Module):
    """L_bce + w_mr * L_mr (method, section 4) of a `CrossEncoder` with one label.

    The dataset has the columns query, document and, for Eq. 6, negative query, in this order whatever their names, and no labels.
    The search for k(i) runs without gradient and with dropout off, over the pairs sorted by length; the gradient runs through the
    chosen pairs alone. A batch of one row, as the trainer leaves at the end of an epoch unless told to drop it, has no k(i): Eq. 5's
    second mean is left out of it.

        loss = RelevanceAwareLoss(model)
        CrossEncoderTrainer(model=model, train_dataset=dataset, loss=loss).train()
    """

    def __init__(self, model: CrossEncoder, w_mr: float = 1.0, margin: float = 0.0, sign: Sign = "paper",
                 activation: Activation = "identity", negative_pair: str = "query_query", mini_batch_size: int = 8) -> None:
        """`mini_batch_size`: pairs scored at a time in the search. The other arguments are those of `RerankerSettings`.

        Raises `ValueError` for a model with another number of labels than one, and for a word that none of them knows."""
        super().__init__()
        for name, found, known in (("sign", sign, Sign), ("activation", activation, Activation),
                                   ("negative_pair", negative_pair, Literal["query_query", "query_document"])):
            if found not in get_args(known):
                raise ValueError(f"RelevanceAwareLoss: {name} is one of {', '.join(get_args(known))}; found {found!r}.")
        if model.num_labels != 1:
            raise ValueError(f"RelevanceAwareLoss needs a model with one label; this one has {model.num_labels}.")
        self.model = model
        self.w_mr, self.margin, self.sign, self.activation = w_mr, margin, sign, activation
        self.negative_pair, self.mini_batch_size = negative_pair, mini_batch_size

    def forward(self, inputs: list[list[str]], labels: Tensor | None = None, prompt: str | None = None,
                task: str | None = None) -> Tensor:
        """Scalar. Raises `ValueError` for another number of columns than two or three."""
        if len(inputs) not in (2, 3):
            raise ValueError("RelevanceAwareLoss needs the columns query, document and, for Eq. 6, negative query; "
                             f"found {len(inputs)} columns of {len(inputs[0]) if inputs else 0} rows.")
        queries, documents = inputs[0], inputs[1]
        pairs = list(zip(queries, documents, strict=True))
        alone = len(queries) == 1
        if not alone:
            hardest = hardest_documents(self._search(queries, documents, prompt, task)).tolist()
            pairs += [(query, documents[k]) for query, k in zip(queries, hardest, strict=True)]
        if len(inputs) == 3 and self.w_mr:
            first, second = (queries, inputs[2]) if self.negative_pair == "query_query" else (inputs[2], documents)
            pairs += list(zip(first, second, strict=True))
        own, *rest = torch.split(self._scores(pairs, prompt, task), len(queries))
        loss = 0.5 * softplus(-own).mean() if alone else bce_loss(own, rest.pop(0))
        if rest:
            loss = loss + self.w_mr * margin_ranking_loss(own, rest[0], self.margin, self.sign, self.activation)
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """For the model card that the trainer writes."""
        return {"w_mr": self.w_mr, "margin": self.margin, "sign": self.sign, "activation": self.activation,
                "negative_pair": self.negative_pair}

    @torch.no_grad()
    def _search(self, queries: list[str], documents: list[str], prompt: str | None, task: str | None) -> Tensor:
        """(B, B) logits, the diagonal left at 0."""
        number = len(queries)
        places = [(i, j) for i in range(number) for j in range(number) if i != j]
        places.sort(key=lambda place: -len(queries[place[0]]) - len(documents[place[1]]))
        scores = torch.zeros(number, number, device=self.model.device)
        training = self.model.training
        self.model.eval()
        for start in range(0, len(places), self.mini_batch_size):
            some = places[start : start + self.mini_batch_size]
            rows, columns = torch.tensor(some, device=scores.device).T
            scores[rows, columns] = self._scores([(queries[i], documents[j]) for i, j in some], prompt, task)
        self.model.train(training)
        return scores

    def _scores(self, pairs: list[tuple[str, str]], prompt: str | None, task: str | None) -> Tensor:
        features = batch_to_device(self.model.preprocess(pairs, prompt=prompt, task=task), self.model.device)
        logits: Tensor = self.model(features)["scores"].view(-1).float()
        return logits
