"""Queries scored with their documents, and the filter of training that reads the scores."""

import numpy as np
import pytest
import torch

from readqg import api
from readqg.config import RoundTripConfig, ScoreQueriesConfig
from readqg.crossencoder import CrossEncoderScorer
from readqg.errors import InputError
from readqg.local import run_here
from readqg.reranker.sampling import SCORE_COLUMNS
from readqg.reranker.training import RerankerTraining
from readqg.shards import OutputFolder, open_input
from readqg.start_scores import ScoreQueriesStage
from tests.builders import tiny_cross_encoder
from tests.reranker.corpus import DOCUMENTS, query_row, reranker_config


def scored(config, tmp_path, **settings):
    stage = ScoreQueriesStage(ScoreQueriesConfig(
        queries=config.queries, documents=config.documents, model=config.start, out=str(tmp_path / "scored"), max_length=48,
        compute=config.compute, **settings))
    run_here(stage, OutputFolder.begin(stage.config.out, stage.name, {}, stage.inputs(), stage.models()))
    return config.model_copy(update={"queries": stage.config.out})


def test_each_query_has_its_own_document_s_score(tmp_path):
    rows = [query_row("d3", 1.0, "number 3"), query_row("d5", 0.0, None, error="too long"), query_row("d4", 0.0, "wing of 4"),
            query_row("d6", 0.0, " ")]
    config = scored(reranker_config(tmp_path, rows), tmp_path, shard_rows=3)
    found = open_input(config.queries, SCORE_COLUMNS).read().to_pylist()
    expected = CrossEncoderScorer(config.start, 48, 4096, "cpu", torch.float32).score(
        [("number 3", DOCUMENTS["d3"]), ("wing of 4", DOCUMENTS["d4"])])
    assert [row["query"] for row in found] == ["number 3", None, "wing of 4", " "]
    assert [found[0]["start_score"], found[2]["start_score"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert found[1]["start_score"] is None and found[3]["start_score"] is None
    assert [row["error"] for row in found] == [None, "too long", None, None]


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_training_keeps_the_best_share_and_is_judged_on_what_it_would_be_judged_on_without(tmp_path, share):
    config = scored(reranker_config(tmp_path, w_mr=0.0), tmp_path)
    rows = [row for row in open_input(config.queries).read().to_pylist() if row["relevance"] == 1]
    best = sorted(rows, key=lambda row: -row["start_score"])[:int(np.ceil(share * len(rows)))]
    stage, whole = RerankerTraining(config.model_copy(update={"score_best": share})), RerankerTraining(config)
    held_out = doc_ids(whole._held_out_examples)
    assert doc_ids(stage._held_out_examples) == held_out != set()
    assert doc_ids(stage.batches.examples) == {row["doc_id"] for row in best} - held_out
    assert stage.counts["positives_of_low_score"] == len(rows) - len(best)


def test_scores_of_another_model_are_refused_whatever_stage_ran_after(tmp_path):
    config = scored(reranker_config(tmp_path, score_best=0.5), tmp_path)
    back = api.round_trip(RoundTripConfig(queries=config.queries, documents=config.documents, out=str(tmp_path / "back"), top_k=3))
    assert back["counts"]["inputs"] > 0
    later = config.model_copy(update={"queries": str(tmp_path / "back")})
    RerankerTraining(later)
    other = tiny_cross_encoder(tmp_path / "other", seed=9)
    with pytest.raises(InputError, match="these are another model's"):
        RerankerTraining(later.model_copy(update={"start": str(other)}))


def doc_ids(examples):
    return {doc_id for _, doc_id in examples.doc_ids()}


def test_queries_without_scores_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"score_best needs the start's scores.*readqg score-queries --queries"):
        RerankerTraining(reranker_config(tmp_path, score_best=0.5))
