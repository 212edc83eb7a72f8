"""A small matrix from its file to its tables, on a real local Ray."""

import json
import os
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
import yaml

from readqg import api, runs
from readqg.config import ExperimentConfig
from readqg.errors import InputError, ModelError
from readqg.experiments import cells, results
from readqg.experiments.matrix import read_matrix
from tests.builders import tiny_bi_encoder
from tests.generator.pairs import pair_row, write_pairs
from tests.test_pipeline import place  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow


def write(place, folder, recipes=("off", "as-it-is", "half")):  # noqa: F811
    every = {
        "off": {"run": {"reranker": {"w_mr": 0}}, "note": "positives only"},
        "as-it-is": {"train": False},
        "half": {"run": {"reranker": {"w_mr": 0}}, "average": 0.5, "published": {"small": 12.3}},
    }
    values = {
        "title": "A <small> matrix", "collections": {"small": {"source": str(place / "corpus")}},
        "recipes": {name: every[name] for name in recipes}, "seeds": [0], "run": {
            "prompts": str(place / "prompts"), "backbone": str(place / "backbone"), "start": str(place / "start"),
            "generate": {"max_new_tokens": 6, "document_tokens": 16, "relevances": [1.0]},
            "reranker": {"epochs": 1, "max_length": 48}, "rank": {"max_length": 48}, "retrieve": {"top_k": 10},
            "compute": {"precision": "fp32", "max_error_share": 0.5}},
    }
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def inodes(out):
    return {p.relative_to(out).as_posix(): os.stat(p).st_ino for p in (out / "shared").rglob("*.parquet")}


@pytest.mark.timeout(600)
def test_cells_are_done_once_share_what_they_can_and_go_on(place, tmp_path, ray_here):  # noqa: F811
    out, path = tmp_path / "out", write(place, tmp_path)
    first = api.experiment(ExperimentConfig(file=str(path), out=str(out), cells=1))
    assert (first["cells"], first["done"]) == (3, 1)
    made = inodes(out)
    assert api.experiment(ExperimentConfig(file=str(path), out=str(out)))["done"] == 3
    assert made.items() <= inodes(out).items()
    names = sorted(p.name.split("-")[0] for p in (out / "shared").iterdir() if p.is_dir())
    assert names == ["averaged", "bm25", "corpus", "fused", "fused", "fused", "queries", "ranked", "ranked", "ranked", "reranker"]

    rows = pq.read_table(out / "results.parquet").to_pylist()
    assert len(rows) == 3 * 5 * 7  # cells, systems, queries (one of them without a result)
    by = {(row["recipe"], row["system"], row["query_id"]): row["ndcg"] for row in rows}
    assert all(by["as-it-is", "recipe", q] == by["as-it-is", "start", q] for _, _, q in by)
    costs = {(row["recipe"], row["system"]): (row["seconds"], row["parameters"], row["flops"]) for row in rows}
    seconds, parameters, flops = costs["half", "recipe-fused"]
    assert seconds > 0 and parameters > 0 and flops > 0 and costs["half", "start"] == costs["half", "bm25"] == (None, None, None)
    page = (out / "tables.html").read_text()
    assert "A &lt;small&gt; matrix" in page and "<script" not in page
    text = (out / "tables.md").read_text()
    assert "[paper 12.3]" in text and text.count("| half |") == 2 and "3 of 3 cells" in text
    assert "fp32, torch" in text and "(3 cells)" in text and "(differences-fused.svg)" in text
    ElementTree.fromstring((out / "differences.svg").read_text())
    full = json.loads((out / "differences.json").read_text())
    gained = [by["off", "recipe-fused", q] - by["off", "start-fused", q] for q in {q for _, _, q in by}]
    assert full["fused"]["off"]["mean"] == pytest.approx(sum(gained) / len(gained)) and set(full["plain"]) == {"off", "as-it-is", "half"}
    facts = json.loads((out / "cells/small/half/0/facts.json").read_text())
    assert facts["seconds"]["train"] > 0 and facts["guard"]["use"] in ("start", "tuned")

    before = (out / "tables.md").read_bytes()
    assert api.experiment(ExperimentConfig(file=str(path), out=str(out), tables_only=True))["done"] == 3
    assert (out / "tables.md").read_bytes() == before


@pytest.mark.timeout(900)
def test_every_switch_at_once_and_the_baseline(place, tmp_path, ray_here):  # noqa: F811
    pairs = str(write_pairs(tmp_path / "pairs", [pair_row(i, 2, 3) for i in range(6)]))
    encoder = str(tiny_bi_encoder(tmp_path / "encoder"))
    (tmp_path / "real.txt").write_text("wing flow\nwhat is heat\n")
    values = yaml.safe_load(write(place, tmp_path, ("off",)).read_text())
    values |= {"pairs": pairs, "guard": {"documents": 6, "examples": 1, "encoder": encoder, "near": 1.0}}
    values["recipes"] = {
        "all": {"run": {
            "max_documents": 20, "sampling": "coverage", "coverage": {"encoder": encoder}, "queries_like": str(tmp_path / "real.txt"),
            "generate": {"relevances": [1.0, 0.5, 0.25], "samples": 2},
            "rank": {"passages": "max", "passage_tokens": 16, "passage_stride": 8},
            "fusion": {"weight": "learned"}, "candidates": "both", "dense": {"encoder": encoder},
            "reranker": {"w_anchor": 1.0, "replay": pairs, "ratio_min": -1e9, "score_best": 1.0,
                         "negative_round_trip": 10, "unverified": "drop",
                         "mined": 2, "mined_by": "negative", "graded": 1, "negative_relevance": 0.25}}},
        "mined": {"trainer": "sentence_transformers", "mining": {"encoder": encoder, "negatives": 2, "range_max": 8, "batch": 8},
                  "run": {"reranker": {"w_mr": 0}, "fusion": {"weight": "learned"}}},
        "searching": {"trainer": "bi_encoder", "bi_encoder": {"encoder": encoder, "loss": "margin_mse", "range_max": 8, "batch": 8},
                      "run": {"reranker": {"w_mr": 0}}},
        "few-shot": {"few_shot": {"examples": 1}, "run": {"generate": {"relevances": [1.0]}, "reranker": {"w_mr": 0}}},
    }
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    out = tmp_path / "out"
    assert api.experiment(ExperimentConfig(file=str(tmp_path / "matrix.yaml"), out=str(out)))["done"] == 4
    folders = {p.name.split("-")[0]: p for p in (out / "shared").iterdir() if p.is_dir()}
    assert {"chosen", "queries", "select", "round", "ratio", "reranker", "baseline", "fused", "dense", "first", "bi",
            "searched"} <= folders.keys()
    rows = pq.read_table(folders["ratio"]).to_pylist()
    assert rows[0].keys() >= {"rank", "found", "ratio"} and len({row["doc_id"] for row in rows}) == 20
    assert len({(row["doc_id"], row["relevance"]) for row in rows}) == len(rows)
    log = [json.loads(line) for line in (folders["reranker"] / "training_log.jsonl").read_text().splitlines()]
    assert all("anchor" in line for line in log if "loss" in line)
    assert json.loads((folders["reranker"] / "readqg.json").read_text())["fusion_weight"] >= 0
    facts = json.loads((out / "cells/small/all/0/facts.json").read_text())
    assert {"coverage", "select", "round-trip", "ratio", "score-queries", "train", "guard"} <= facts["seconds"].keys()
    assert {side["documents"] for side in facts["outside"].values()} == {6} and facts["trained_on"]["documents_trained"] > 0
    outside = {row["doc_id"] for p in (out / "shared").glob("outside-*") for row in pq.read_table(p).to_pylist()}
    assert len(outside) == 6 and not outside & {row["doc_id"] for row in pq.read_table(folders["ratio"]).to_pylist()}
    assert "The guard against judged queries" in (out / "tables.md").read_text()
    mined = json.loads((out / "cells/small/mined/0/facts.json").read_text())
    assert mined["outside"] is None, "it has queries for every document"
    assert mined["guard"]["use"] in ("start", "tuned") and mined["operations"] is None and facts["operations"]["flops"] > 0
    searching = json.loads((out / "cells/small/searching/0/facts.json").read_text())
    assert searching["guard"] is None and searching["operations"] is None and searching["seconds"]["train"] > 0
    few_shot = json.loads((out / "cells/small/few-shot/0/facts.json").read_text())
    assert few_shot["outside"] is None and few_shot["seconds"].keys() >= {"prompts", "generate", "train"}
    candidates, found = (runs.read_run(folders[name]) for name in ("first", "dense"))
    assert candidates.keys() == found.keys() and all(len(documents) <= 10 for documents in candidates.values())
    made = inodes(out)
    assert api.experiment(ExperimentConfig(file=str(tmp_path / "matrix.yaml"), out=str(out)))["done"] == 4 and inodes(out) == made


@pytest.mark.timeout(600)
def test_a_cell_that_fails_stops_no_other_and_what_is_missing_is_said_before_any(place, tmp_path, ray_here, monkeypatch):  # noqa: F811
    path = write(place, tmp_path, ("off", "as-it-is"))
    values = yaml.safe_load(path.read_text())

    def no_memory(*_):
        raise MemoryError("of another library")

    monkeypatch.setattr(cells, "train_baseline", no_memory)
    values["recipes"] = {
        "few": {"run": {"reranker": {"w_mr": 0, "score_best": 0.01}}},
        "odd": {"trainer": "sentence_transformers", "mining": {"encoder": "none"}, "run": {"reranker": {"w_mr": 0}}},
        **values["recipes"]}
    out = tmp_path / "out"
    for missing, said in (({"start": str(tmp_path / "no-model")}, "no-model"), ({"queries": str(tmp_path / "none.jsonl")}, "none.jsonl")):
        absent = {**values, "recipes": {**values["recipes"], "late": {"run": {**missing, "reranker": {"w_mr": 0}}}}}
        path.write_text(yaml.safe_dump(absent, sort_keys=False))
        with pytest.raises((InputError, ModelError), match=said):
            api.experiment(ExperimentConfig(file=str(path), out=str(out)))
        assert not (out / "shared").exists()
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    found = api.experiment(ExperimentConfig(file=str(path), out=str(out)))
    assert (found["done"], found["exit_code"], list(found["failed"])) == (2, 1, ["small/few/0", "small/odd/0"])
    assert "score_best 0.01 leaves" in found["failed"]["small/few/0"]
    assert found["failed"]["small/odd/0"] == "MemoryError: of another library"
    assert "Traceback" in (out / "cells" / "small" / "odd" / "0" / "failed.txt").read_text()
    assert "2 of 4 cells" in (out / "tables.md").read_text()
    more = {**values, "recipes": {**values["recipes"], "half": {"average": 0.5, "run": {"reranker": {"w_mr": 0}}}}}
    path.write_text(yaml.safe_dump(more, sort_keys=False))
    found = api.experiment(ExperimentConfig(file=str(path), out=str(out), cells=1))
    assert (found["done"], found["failed"]) == (3, {}), "what failed before comes last"


def test_a_table_of_a_part_gives_no_means_of_other_collections(place, tmp_path):  # noqa: F811
    matrix = read_matrix(str(write(place, tmp_path)))
    values = [{"collection": c, "recipe": r, "seed": 0, "system": s, "query_id": "q", "ndcg": v, "recall": 1.0}
              for c, r, v in (("small", "off", 0.5), ("arguana", "off", 0.7), ("small", "half", 0.9))
              for s in ("bm25", "start", "start-fused", "recipe", "recipe-fused")]
    both = matrix.model_copy(update={"collections": {**matrix.collections, "arguana": matrix.collections["small"]}})
    import pyarrow as pa

    lines = {line["name"]: line for line in results.summarise(both, results.by_row(pa.Table.from_pylist(values)), {})["lines"]}
    assert lines["off"]["mean"] == pytest.approx(60.0) and lines["off"]["without_arguana"] == pytest.approx(50.0)
    assert lines["half"]["mean"] is None and lines["half"]["difference"] is None
