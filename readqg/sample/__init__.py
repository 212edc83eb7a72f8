"""The embedded default: a small real corpus, prompts trained for it, and where its weights are found (`weights`)."""

from pathlib import Path

from readqg.config import SMOLLM2
from readqg.errors import ModelError

_HERE = Path(__file__).parent


def corpus_folder() -> str:
    """The Cranfield collection as a BEIR folder: 1,400 abstracts, 225 queries, `qrels/test.tsv`."""
    return str(_HERE / "corpus")


def prompts_folder() -> str:
    """The generator's prompts that come with the package, made for SmolLM2-135M-Instruct.

    Raises `ModelError`, with the command that trains such prompts, where this copy of the package has none."""
    folder = _HERE / "prompts"
    if not (folder / "prompts.json").exists():
        raise ModelError(
            f"{folder}: this copy of the package holds no prompts. Train some and give them with --prompts OUT: "
            f"readqg train-generator --pairs PAIRS --out OUT --backbone {SMOLLM2}"
        )
    return str(folder)
