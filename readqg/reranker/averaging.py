"""Weights between two models (WiSE-FT; Wortsman et al., CVPR 2022): part of what tuning gained, less of what it forgot."""

from __future__ import annotations

import shutil
from typing import Any

from safetensors.torch import save_file

from readqg import models
from readqg.crossencoder import load_model
from readqg.errors import ModelError
from readqg.fetching import local_folder
from readqg.places import Place
from readqg.reranker.selection import GUARD_FILE, LOG_FILE
from readqg.shards import OutputFolder

_WEIGHTS = "model.safetensors"


def average(start: str, tuned: str, out: str | Place, share: float) -> dict[str, Any]:
    """A cross-encoder whose weights are (1 - share) * start + share * tuned, parameter by parameter, in float32.

    Raises `ModelError` where the two have other parameters."""
    asked = {"share": share}
    folder = OutputFolder.begin(out, "average", asked, {}, {"start": models.fingerprint(start), "tuned": models.fingerprint(tuned)})
    if folder.done:
        return folder.success()
    first, second = (load_model(models.resolve(name), "cpu").state_dict() for name in (start, tuned))
    differing = sorted(first.keys() ^ second.keys()) or [name for name in first if first[name].shape != second[name].shape]
    if differing:
        raise ModelError(f"{start} and {tuned} are not of one architecture: {differing[0]} differs. Average a model with its own start.")
    made = folder.tmp / "averaged"
    own = ("_*", "*.safetensors", "README.md", GUARD_FILE, LOG_FILE, models.OWN_FILE)
    shutil.copytree(local_folder(tuned), made, ignore=shutil.ignore_patterns(*own))
    mixed = {
        name: ((1 - share) * first[name].float() + share * second[name].float()).contiguous() if first[name].is_floating_point()
        else second[name] for name in first
    }
    save_file(mixed, made / _WEIGHTS, metadata={"format": "pt"})
    return folder.commit_files(made, asked)
