"""The generator: soft prompts over a frozen backbone, queries scored under it (section 3.2).

The input is embeddings, [P_inst ; P_rel(r) ; document ; </s>] for an encoder-decoder and [P_inst ; P_rel(r) ; document ;
separator] for a decoder-only backbone. That prefix is computed once, however many queries are scored under it: by the encoder, or
as a key-value cache through which gradients flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from readqg.errors import ModelError
from readqg.generator.backbone import Backbone, Kind
from readqg.generator.losses import IGNORED, token_log_likelihoods
from readqg.generator.prompts import SoftPrompt


@dataclass(frozen=True)
class Encoded:
    """B documents under their prompts, ready for queries to be scored.

    `states` (B, L, H) and `mask` (B, L) are what Eq. 3 pools over: all of an encoder's output; prompts and document of a
    decoder-only prefix. There, `cache` holds the keys and values of the prefix without its last token, `prefix_mask` (B, P)
    says which of its P positions are real, and `last` (B, 1, H) is the embedding of that last token."""

    states: Tensor
    mask: Tensor
    cache: DynamicCache | None = None
    prefix_mask: Tensor | None = None
    last: Tensor | None = None


class Generator(nn.Module):
    """Soft prompts, the only submodule, over a frozen backbone."""

    def __init__(self, backbone: Backbone, prompts: SoftPrompt, dropout: bool = False) -> None:
        """`dropout`: leave the backbone's dropout on in training mode. Raises `ModelError` where prompts and backbone do not
        fit, or a decoder-only backbone has no separator to begin its query after."""
        super().__init__()
        prompts.check_fits(backbone)
        # Within a tuple the backbone is not registered: DeepSpeed neither copies, casts, partitions nor checkpoints it, and
        # `parameters()` gives the prompts alone.
        self._frozen = (backbone,)
        self.prompts = prompts.to(backbone.device)
        self.dropout = dropout
        encodes = self.kind == "encoder-decoder"
        tail = [] if encodes and prompts.facts.conditioned_on != "examples" else backbone.token_ids(prompts.facts.separator)
        tail += [backbone.end_id] if encodes else []
        if not tail:
            raise ModelError("A decoder-only backbone needs a separator between document and query, such as '\\nQuestion:'.")
        self._tail_ids = tail

    @classmethod
    def load(cls, backbone_folder: str | Path, prompts: SoftPrompt | str | Path, device: torch.device | str = "cpu",
             dtype: torch.dtype = torch.float32, dropout: bool = False) -> Generator:
        """A generator from a backbone's folder or hub name and prompts or their folder, in evaluation mode. Raises
        `ModelError` where one of them cannot be used or they do not fit."""
        prompts = prompts if isinstance(prompts, SoftPrompt) else SoftPrompt.load(prompts)
        return cls(Backbone.load(backbone_folder, device, dtype), prompts, dropout).eval()

    @property
    def backbone(self) -> Backbone:
        return self._frozen[0]

    @property
    def kind(self) -> Kind:
        """"encoder-decoder" or "decoder-only"."""
        return self.backbone.kind

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.backbone.tokenizer

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def added_tokens(self) -> int:
        """Prompts and tail: what a document's input is longer than the document."""
        return self.prompts.length + len(self._tail_ids)

    def train(self, mode: bool = True) -> Generator:
        super().train(mode)
        lm = self.backbone.lm
        lm.train(mode and self.dropout)
        if self.device.type == "cpu" and self.backbone.dtype == torch.bfloat16:
            # There the fused attention is faster forward, but its backward pass takes four times as long as the plain one's.
            lm.set_attn_implementation("eager" if mode else self.backbone.attention)
        return self

    def document_ids(self, text: str, max_tokens: int) -> list[int]:
        """The first `max_tokens` tokens of a document; the end token comes on top."""
        return self.backbone.token_ids(text)[:max_tokens]

    def target_ids(self, query: str, max_tokens: int) -> list[int]:
        """The tokens that a query is scored by: its own, cut to `max_tokens` - 1, and the end token. A decoder-only
        backbone writes the query after the separator and a space, so there they are tokenised as one text."""
        if self.kind == "encoder-decoder":
            ids = self.backbone.token_ids(query)
        else:
            whole = self.backbone.token_ids(f"{self.prompts.facts.separator} {query}")
            kept = len(self._tail_ids)
            ids = whole[kept:] if whole[:kept] == self._tail_ids else self.backbone.token_ids(f" {query}")
        return [*ids[: max_tokens - 1], self.backbone.end_id]

    def embed_documents(self, document_ids: Tensor, document_mask: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """The backbone's input: document_ids and document_mask (B, S), padded on either side, relevance (B,) in [0, 1] ->
        embeddings (B, P + S + n, H) in the backbone's precision and their mask (B, P + S + n) of 0 and 1.

        P is the prompts' length and n the tail's: the separator (for an encoder of few-shot prompts alone, whose cue it is), and for
        an encoder </s>. Padding is moved to the right for an encoder, and to the left for a decoder-only backbone, so that what is
        generated follows the separator. To decode:
        `backbone.lm.generate(inputs_embeds=embeddings, attention_mask=mask, ...)` (decoder-only; returns new tokens only), or
        `generate(encoder_outputs=BaseModelOutput(encode(...).states), attention_mask=mask, ...)` (encoder-decoder)."""
        rows, device = len(document_ids), self.device
        prompts = self.prompts(relevance.to(device)).to(self.backbone.dtype)
        document = self.backbone.embed(document_ids)
        tail = self.backbone.embed(torch.tensor(self._tail_ids)).expand(rows, -1, -1)
        embeddings = torch.cat([prompts, document, tail], dim=1)
        ones = torch.ones(rows, embeddings.shape[1] - document.shape[1], dtype=torch.long, device=device)
        mask = torch.cat([ones[:, : prompts.shape[1]], document_mask.to(device).long(), ones[:, prompts.shape[1]:]], dim=1)
        order = mask.argsort(dim=1, descending=self.kind == "encoder-decoder", stable=True)
        return embeddings.take_along_dim(order.unsqueeze(-1), dim=1), mask.take_along_dim(order, dim=1)

    def encode(self, document_ids: Tensor, document_mask: Tensor, relevance: Tensor) -> Encoded:
        """Run the encoder, or the decoder-only prefix, once; arguments as for `embed_documents`."""
        embeddings, mask = self.embed_documents(document_ids, document_mask, relevance)
        lm = self.backbone.lm
        if self.kind == "encoder-decoder":
            return Encoded(lm.get_encoder()(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state, mask)
        # The prefix's last token goes with each query: its output is the query's first logits, so the head never sees the prefix.
        prefix, prefix_mask = embeddings[:, :-1], mask[:, :-1]
        out = lm.base_model(inputs_embeds=prefix, attention_mask=prefix_mask, position_ids=positions(prefix_mask),
                            past_key_values=DynamicCache(config=lm.config), use_cache=True)
        pooled = mask.shape[1] - len(self._tail_ids)
        return Encoded(out.last_hidden_state[:, :pooled], mask[:, :pooled], out.past_key_values, prefix_mask, embeddings[:, -1:])

    def logits(self, encoded: Encoded, index: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, T, V) at every target position, teacher forced: query i, labels (N, T) with -100 for padding at the
        right, under encoding `index[i]` (N,)."""
        labels, index = labels.to(self.device), index.to(self.device)
        if self.kind == "encoder-decoder":
            return self._decoder_logits(encoded, index, labels)
        return self._continuation_logits(encoded, index, labels)

    def token_log_likelihoods(self, encoded: Encoded, index: Tensor, labels: Tensor) -> Tensor:
        """log p of every target token, (N, T) nats, 0 at padding; arguments as for `logits`."""
        return token_log_likelihoods(self.logits(encoded, index, labels), labels.to(self.device))

    def log_likelihoods(self, texts: Sequence[str], relevance: Sequence[float], queries: Sequence[str], *,
                        document_tokens: int, query_tokens: int) -> Tensor:
        """S(q | d, r) of `queries[i]` under `texts[i]` at `relevance[i]`, one batch: (N,) nats, end token included."""
        document_ids, document_mask = padded([self.document_ids(text, document_tokens) for text in texts], 0)
        labels, _ = padded([self.target_ids(query, query_tokens) for query in queries], IGNORED)
        encoded = self.encode(document_ids, document_mask, torch.tensor(relevance, dtype=torch.float32))
        return self.token_log_likelihoods(encoded, torch.arange(len(texts)), labels).sum(-1)

    def _decoder_logits(self, encoded: Encoded, index: Tensor, labels: Tensor) -> Tensor:
        lm = self.backbone.lm
        start = torch.full_like(labels[:, :1], lm.config.decoder_start_token_id)
        inputs = torch.cat([start, labels[:, :-1].clamp(min=0)], dim=1)  # what stands in for padding is seen by padding alone
        memory = BaseModelOutput(last_hidden_state=encoded.states[index])
        return lm(encoder_outputs=memory, attention_mask=encoded.mask[index], decoder_input_ids=inputs, use_cache=False).logits

    def _continuation_logits(self, encoded: Encoded, index: Tensor, labels: Tensor) -> Tensor:
        assert encoded.cache is not None and encoded.prefix_mask is not None and encoded.last is not None
        lm = self.backbone.lm
        inputs = torch.cat([encoded.last[index], self.backbone.embed(labels[:, :-1].clamp(min=0))], dim=1)
        mask = torch.cat([encoded.prefix_mask[index], torch.ones_like(labels)], dim=1)
        cache = copy(encoded.cache)  # the tensors are shared, and replaced, not changed, by selecting and appending
        cache.layers = [copy(layer) for layer in cache.layers]
        cache.batch_select_indices(index)
        return lm(inputs_embeds=inputs, attention_mask=mask, position_ids=positions(mask)[:, -labels.shape[1]:],
                  past_key_values=cache, use_cache=True).logits


def padded(sequences: Sequence[Sequence[int]], value: int, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Right-padded with `value` to the longest, rounded up to `multiple`: ids (B, S) and their mask of 0 and 1."""
    length = max(1, *(len(s) for s in sequences)) if sequences else 1
    length = -(-length // multiple) * multiple
    ids = torch.full((len(sequences), length), value, dtype=torch.long)
    mask = torch.zeros(len(sequences), length, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(list(sequence), dtype=torch.long)
        mask[row, : len(sequence)] = 1
    return ids, mask


def positions(mask: Tensor) -> Tensor:
    """Position of every real token, counted from its own first one."""
    return (mask.cumsum(-1) - 1).clamp(min=0)
