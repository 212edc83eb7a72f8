"""The snippets of docs/serving.md run, in order, against a cross-encoder of the kind that they are for."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests import pages
from tests.builders import tiny_cross_encoder

PAGE = pages.ROOT / "docs" / "serving.md"
SECTIONS = {part.split("\n")[0]: part for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]}
CODE = {title: blocks for title, part in SECTIONS.items() if (blocks := pages.blocks_of(part, "python"))}


@pytest.fixture
def at_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    return tiny_cross_encoder(tmp_path / "readqg-out" / "reranker", max_positions=512)


@pytest.mark.parametrize("title", CODE)
def test_a_snippet_runs_and_ranks_as_the_model_does(title, at_a_model):
    values: dict = {}
    for block in CODE[title]:
        exec(compile(block, f"{PAGE.name}: {title}", "exec"), values)
    expected = _expected(values.get("query", "heat in the boundary layer of a wing"))
    if title in ("ONNX Runtime", "OpenVINO"):
        assert np.allclose(1 / (1 + np.exp(-values["logits"])), [expected[text] for text in values["documents"]], atol=1e-4)
    elif title == "With BM25's score added":
        logits = _standardised([expected[text] for text in values["documents"].values()])
        fused = logits + 0.5 * _standardised([*values["bm25"].values()])
        assert values["ranking"] == [list(values["documents"])[at] for at in np.argsort(-fused)]
    elif title == "sentence-transformers":
        scores = _scores(values["query"], values["documents"])
        assert [values["documents"][hit["corpus_id"]] for hit in values["ranked"]] == sorted(scores, key=scores.get, reverse=True)[:2]
    else:
        texts = [_text(item) for item in values["ranked"]]
        assert texts == sorted(expected, key=expected.get, reverse=True)[:2]


def _expected(query: str) -> dict[str, float]:
    return _scores(query, ["The flow near a wing.", "What a shock is.", "Heat in a layer of the flow."])


def _standardised(scores: list[float]) -> np.ndarray:
    return (np.array(scores) - np.mean(scores)) / np.std(scores)


def _scores(query: str, texts: list[str]) -> dict[str, float]:
    from sentence_transformers import CrossEncoder

    return dict(zip(texts, CrossEncoder("readqg-out/reranker").predict([(query, text) for text in texts]).tolist(), strict=True))


def _text(item) -> str:
    return getattr(item, "page_content", None) or getattr(item, "content", None) or item.node.text
