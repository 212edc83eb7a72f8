"""The files of a trained re-ranker: the model as `sentence_transformers.CrossEncoder` loads it, its card, its guard, its log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentence_transformers
from jinja2 import Environment, PackageLoader, StrictUndefined
from transformers import PreTrainedTokenizerBase

from readqg.config import TrainRerankerConfig
from readqg.places import place_of
from readqg.reranker.selection import LOG_FILE, Verdict, best_validation, write_learned_weights

SHOWN_SETTINGS = ("relevances", "samples", "decoding", "top_k", "temperature", "document_tokens", "max_new_tokens", "seed")
"""Of `generate`, those that a card names."""
FILTERS = ("round_trip", "ratio_min", "score_best", "negative_round_trip", "negative_ratio_max", "unverified", "search")
"""Of the training's settings, those that say which queries and pairs it took: named where they are not the default."""
WRITERS = ("generate", "import-queries")
_IDENTITY = "torch.nn.modules.linear.Identity"


def write_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Weights (safetensors), config with the identity activation, tokenizer files."""
    model.config.sentence_transformers = {"activation_fn": _IDENTITY, "version": sentence_transformers.__version__}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_documents(
    folder: Path,
    config: TrainRerankerConfig,
    verdict: Verdict,
    counts: Mapping[str, int],
    inputs: Mapping[str, str],
    steps: int,
    log: Sequence[Mapping[str, Any]],
    made: Mapping[str, Any],
) -> None:
    """README.md, guard.json, training_log.jsonl and, where it is known what BM25 should weigh beside the model, readqg.json. `made`:
    `_config.json` of the queries."""
    (folder / "README.md").write_text(model_card(config, verdict, counts, inputs, steps, made))
    verdict.write(folder, config.start)
    before, best, _ = best_validation(log)
    write_learned_weights(folder, before, best)
    (folder / LOG_FILE).write_text("".join(json.dumps(line) + "\n" for line in log))


def model_card(
    config: TrainRerankerConfig, verdict: Verdict, counts: Mapping[str, int], inputs: Mapping[str, str], steps: int,
    made: Mapping[str, Any],
) -> str:
    """The card, in Markdown with the hub's front matter. `inputs`: the fingerprints of what was read; `made`: how the queries were."""
    wrote = made["stage"] in WRITERS  # of a filter between, settings and models are not the writer's
    settings = {name: made["config"][name] for name in SHOWN_SETTINGS if wrote and name in made.get("config", {})}
    environment = Environment(loader=PackageLoader("readqg.reranker", "."), undefined=StrictUndefined, keep_trailing_newline=True)
    base_model = None if place_of(config.start).exists() else config.start  # the hub knows names, not folders
    start = base_model or config.start.rstrip("/").rpartition("/")[2]  # where a folder lies is nobody else's concern
    return environment.get_template("card.md.j2").render(
        c=config, start=start, v=verdict, counts=counts, inputs=inputs, steps=steps, base_model=base_model, stage=made["stage"],
        filters=[name for name in FILTERS if getattr(config, name) != type(config).model_fields[name].default],
        version=made.get("versions", {}).get("readqg", "unknown"), settings=settings, models=made.get("models", {}) if wrote else {})
