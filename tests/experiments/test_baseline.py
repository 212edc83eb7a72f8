"""The baseline of sentence-transformers on generated queries."""

import pytest
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from torch.nn import Identity

from readqg import local
from readqg.config import MiningSettings, RankConfig, identity
from readqg.corpus.rows import SCHEMAS
from readqg.errors import ConfigError
from readqg.fusion import learned_weight
from readqg.ranking import RankStage
from readqg.reranker import baseline
from readqg.reranker.baseline import train_baseline
from readqg.reranker.selection import read_verdict
from readqg.reranker.training import RerankerTraining
from readqg.runs import read_run, write_trec
from readqg.score_text import with_score
from readqg.shards import OutputFolder
from tests.builders import tiny_bi_encoder, write_folder
from tests.reranker.corpus import DOCUMENTS, reranker_config


def test_it_trains_on_the_documents_that_our_training_takes_and_is_judged_on_those_that_it_holds_out(tmp_path, monkeypatch):
    mined = []
    train = baseline._train
    monkeypatch.setattr(baseline, "_train", lambda *given: mined.append(given[-1]) or train(*given))
    config = reranker_config(tmp_path, held_out_share=0.25)
    mining = MiningSettings(encoder=str(tiny_bi_encoder(tmp_path / "encoder")), negatives=2, range_max=8, batch=4, learning_rate=1e-3,
                            relative_margin=None)
    success = train_baseline(config, mining)
    ours = RerankerTraining(config)
    assert success["facts"]["queries"] == len(ours.batches.examples) == 9
    assert success["facts"]["labelled_pairs"] == 9 * 3, "every query with its document and two negatives"
    held_out = {doc_id for _, doc_id in ours._held_out_examples.doc_ids()}
    assert set(mined[0]) == DOCUMENTS.keys() - held_out, "no held-out document is a negative"
    verdict, start = read_verdict(config.out)
    assert (verdict.held_out_documents, start) == (len(ours._held_out_examples), config.start)
    assert 0 <= learned_weight(config.out) <= 2
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (config.start, config.out))
    assert before.keys() == after.keys() and any((before[name] != after[name]).any() for name in before)
    assert CrossEncoder(config.out, device="cpu").predict([("wing", "the wing")]).shape == (1,)
    assert train_baseline(config, mining) == success
    again = train_baseline(config.model_copy(update={"out": str(tmp_path / "again")}), mining)
    assert again["fingerprint"] == success["fingerprint"]
    assert {"config.json", "guard.json", "model.safetensors", "readqg.json", "tokenizer.json"} <= success["files"].keys()
    assert not [name for name in success["files"] if name.endswith((".bin", ".pt"))]


def test_bm25s_score_stands_between_query_and_document_in_training_and_in_ranking(tmp_path, monkeypatch):
    seen = []
    real = baseline.with_score
    monkeypatch.setattr(baseline, "with_score", lambda *of: seen.append(of[:2]) or real(*of))
    config = reranker_config(tmp_path, held_out_share=0.25)
    encoder = str(tiny_bi_encoder(tmp_path / "encoder"))
    mining = MiningSettings(encoder=encoder, negatives=2, range_max=8, batch=4, learning_rate=1e-3, bm25_as_text=True,
                            relative_margin=None)
    train_baseline(config, mining)
    assert len(seen) == 9 * 3 and max(score for _, score in seen) > 0
    query = "wing flow"
    run = {"q": {doc_id: 1.7 * number for number, doc_id in enumerate(DOCUMENTS)}}
    write_trec(tmp_path / "bm25.trec", run)
    queries = write_folder(tmp_path / "asked", [{"query_id": "q", "text": query}], SCHEMAS["queries"])
    asked = RankConfig(run=str(tmp_path / "bm25.trec"), queries=str(queries), documents=config.documents, model=config.out,
                       out=str(tmp_path / "ranked"), max_length=48, compute=config.compute)
    stage = RankStage(asked)
    local.run_here(stage, OutputFolder.begin(asked.out, stage.name, identity(asked), stage.inputs(), stage.models()))
    pairs = [(query, f"{round(2 * score)} [SEP] {DOCUMENTS[doc_id]}") for doc_id, score in run["q"].items()]
    expected = CrossEncoder(config.out, device="cpu", max_length=48).predict(pairs, activation_fn=Identity())
    with pytest.raises(ConfigError, match="it ranks no passages"):
        RankStage(asked.model_copy(update={"passages": "max"}))
    assert read_run(asked.out)["q"] == pytest.approx(dict(zip(run["q"], expected.tolist(), strict=True)), abs=1e-5)


@pytest.mark.parametrize(("score", "said"), [(-1.0, 0), (0.0, 0), (12.3, 25), (50.0, 100), (70.0, 100)])
def test_a_score_is_a_whole_number_of_0_to_100(score, said):
    assert with_score("a document", score, "[SEP]") == f"{said} [SEP] a document"


def test_a_range_that_holds_too_few_is_refused():
    with pytest.raises(ValueError, match="there are no 5 negatives"):
        MiningSettings(range_min=10, range_max=12)
