"""One function a stage: a config in, a summary out. The command line, `jobs/` and Python programs all call these."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from readqg import config as c
from readqg.errors import ConfigError, InputError
from readqg.places import place_of

Summary = dict[str, Any]


def import_corpus(config: c.ImportConfig) -> Summary:
    """Documents, queries and judgments of any known format into canonical folders (OUT/documents, queries, judgments).

    Returns `documents`, `queries` and `judgments`: rows kept of each that there is; `rejected`: lines, files and pages set aside;
    `empty_documents` with neither title nor text, `titled_documents`, `text_files`, `cut_texts`, `mended_texts`; `warnings`; `out`."""
    from readqg import corpus

    return corpus.import_corpus(config).as_dict()


def import_queries(config: c.ImportQueriesConfig) -> Summary:
    """Queries made elsewhere (InPars, GPL, Promptagator, JSON lines) into a queries folder, for train-reranker."""
    from readqg.corpus import generated

    return generated.import_queries(config)


def export(config: c.ExportConfig) -> Summary:
    """Generated queries for other tools: CrossEncoderTrainer, FlagEmbedding, Tevatron, BEIR, a Hugging Face dataset.

    Returns what `_SUCCESS` holds: `files` with their sha256, and `facts`: the rows written, and those left out, by reason."""
    from readqg import exporting

    return exporting.export(config)


def retrieve(config: c.RetrieveConfig) -> Summary:
    """BM25's best documents for every query: a run."""
    from readqg import local, retrieval, runs
    from readqg.shards import OutputFolder

    stage = retrieval.RetrieveStage(config)
    folder = OutputFolder.begin(config.out, stage.name, c.identity(config), stage.inputs(), stage.models())
    success = local.run_here(stage, folder, c.Compute().max_error_share)
    runs.write_trec_beside(folder.path, "bm25")
    runs.write_queries_beside(folder.path, stage.query_ids)
    return success


def retrieve_dense(config: c.DenseConfig) -> Summary:
    """A bi-encoder's best documents for every query, of the whole corpus: a run."""
    from readqg.dense import retrieve_dense
    from readqg.engine import data

    return retrieve_dense(config, lambda stage, folder: data.run_into(stage, folder, config.compute))


def label(config: c.LabelConfig) -> Summary:
    """Teacher scores (raw logits) for candidate (query, passage) pairs."""
    from readqg.engine import data
    from readqg.labeling.label import LabelStage

    return data.run(LabelStage(config), config)


def pairs(config: c.PairsConfig) -> Summary:
    """Scores into document-centric pairs: every passage with its positive and negative queries.

    Returns the numbers of `scored_pairs`, of those left out as `unscored`, `unknown_passage` and `unknown_query`, of `duplicates`, of
    `passages`, those `kept` and those `dropped` (reason: number)."""
    from readqg.engine import cluster, data
    from readqg.labeling.pairs import make_pairs

    with cluster.connect(config.compute, place_of(config.out)):
        return make_pairs(config, lambda stage, folder: data.run_into(stage, folder, config.compute))


def train_generator(config: c.TrainGeneratorConfig) -> Summary:
    """Soft prompts with a continuous relevance, trained on pairs over a frozen backbone.

    Returns what `_SUCCESS` holds: `files` with their sha256, `fingerprint`, `facts`. Raises `RunError` where training collapses."""
    from readqg.engine import stored
    from readqg.generator.training import GeneratorTraining

    return stored.run(GeneratorTraining(config), config)


def few_shot(config: c.FewShotConfig) -> Summary:
    """Prompts made of worked examples instead of trained ones (InPars): something to compare with.

    Returns what `_SUCCESS` holds; its `facts` are the `examples`' queries and how many `tokens` the prompt has."""
    from readqg.generator.few_shot import few_shot

    return few_shot(config)


def generate(config: c.GenerateConfig) -> Summary:
    """Queries for documents at the relevances asked."""
    from readqg.engine import data
    from readqg.generator.generate import GenerateStage

    return data.run(GenerateStage(config), config)


def coverage(config: c.CoverageConfig) -> Summary:
    """Documents spread over a corpus, by clusters of their embeddings, to write queries for."""
    from readqg.covering import cover
    from readqg.engine import data

    return cover(config, lambda stage, folder: data.run_into(stage, folder, config.compute))


def select(config: c.SelectConfig) -> Summary:
    """Of the samples written for a document, those that have the lengths and forms of real queries.

    Returns what `_SUCCESS` holds and, when it is made, `distance`: how far lengths and forms are from the real queries'
    before and after."""
    from readqg import local
    from readqg.selecting import SelectStage
    from readqg.shards import OutputFolder

    stage = SelectStage(config)
    folder = OutputFolder.begin(config.out, stage.name, c.identity(config), stage.inputs(), stage.models())
    distances = {} if folder.done else {"distance": stage.choose()}
    return {**local.run_here(stage, folder), **distances}


def round_trip(config: c.RoundTripConfig) -> Summary:
    """Every generated query asked back of the corpus by BM25: for filters and mined negatives of `train-reranker`."""
    from readqg import local
    from readqg.round_trips import RoundTripStage
    from readqg.shards import OutputFolder

    stage = RoundTripStage(config)
    return local.run_here(stage, OutputFolder.begin(config.out, stage.name, c.identity(config), stage.inputs(), stage.models()))


def ratio(config: c.RatioConfig) -> Summary:
    """How much likelier the generator finds every query at r = 1 than at r = 0: for filters of `train-reranker`."""
    from readqg.engine import data
    from readqg.generator.ratio import RatioStage

    return data.run(RatioStage(config), config)


def score_queries(config: c.ScoreQueriesConfig) -> Summary:
    """Every generated query scored with its own document by the model that is to be trained: for a filter of `train-reranker`."""
    from readqg.engine import data
    from readqg.start_scores import ScoreQueriesStage

    return data.run(ScoreQueriesStage(config), config)


def train_reranker(config: c.TrainRerankerConfig) -> Summary:
    """A cross-encoder fine-tuned on generated queries, with a guard against getting worse.

    Returns what `_SUCCESS` holds, and `guard`: `use` (tuned or start), `start`, `before` and `after` (nDCG@10 on `held_out_documents`
    synthetic ones), `difference`, its `interval`, `p_value`, `reason`. Raises `RunError` where training collapses."""
    from readqg.engine import stored
    from readqg.reranker.selection import announce
    from readqg.reranker.training import RerankerTraining

    success = stored.run(RerankerTraining(config), config)
    return {**success, "guard": announce(config.out)}


def rank(config: c.RankConfig) -> Summary:
    """A run re-ranked by a cross-encoder."""
    from readqg import fusion, runs
    from readqg.engine import data
    from readqg.ranking import RankStage

    success = data.run(RankStage(config), config)
    asked = runs.read_queries_beside(config.run)
    if asked is not None:
        runs.write_queries_beside(config.out, asked)
    runs.write_trec_beside(config.out, "readqg")
    fusion.carry_weights(config.model, config.out)
    return success


def fuse(config: c.FuseConfig) -> Summary:
    """A re-ranked run with BM25's scores added, both standardised: needs no training."""
    from readqg import local, runs
    from readqg.fusion import FuseStage
    from readqg.shards import OutputFolder

    stage = FuseStage(config)
    folder = OutputFolder.begin(config.out, stage.name, c.identity(config), stage.inputs(), stage.models())
    success = local.run_here(stage, folder)
    sides = (config.run, config.first) if config.documents == "both" else (config.run,)
    asked = [runs.read_queries_beside(side) for side in sides]
    if None not in asked:
        runs.write_queries_beside(config.out, dict.fromkeys(query for side in asked for query in side or ()))
    runs.write_trec_beside(folder.path, "readqg")
    return success


def quality(config: c.QualityConfig) -> Summary:
    """How good generated queries are: diversity, relevancy, round trips, control.

    Returns `documents`, `errors`, and of each measure its mean and the `count` of documents that it is over: `distinct`, `diversity`,
    `rel_plus`, `rel_minus`, `delta`, `control`; ranks as `mean_reciprocal`, `top_1`, `top_10`; `self_judged`: which of
    teacher and start are the judge itself, `label` in words."""
    from readqg.engine import data
    from readqg.evaluation.quality import measure_quality

    return measure_quality(config, lambda stage, folder: data.run_into(stage, folder, config.compute))


def evaluate(config: c.EvaluateConfig) -> Summary:
    """Measures of a run against judgments, and a test of the difference to a second run.

    Returns `measures` (name: mean over `queries`), `judged`, `unanswered`, `unjudged`, `run`, `qrels`; and with `against` the same of the
    second run there, and `differences`: name: `mean`, `low`, `high`, `p`, `queries`, `better`, `worse`."""
    from readqg.evaluation.evaluate import evaluate_command

    return evaluate_command(config)


def compare(config: c.CompareConfig) -> Summary:
    """Which of two re-rankers is better, by your own eyes: a page shows both rankings of a query, blind, and counts what you say.

    Returns, once it is stopped or has ended, `judged`, `decided`, `ties`, `skipped`, `needed`, `verdict`, and who won: before the end
    `more_wins`, `fewer_wins` and, once as many are judged as planned, `p`; after it `wins_a`, `wins_b`, `share_b` with `low`, `high`
    and `p`."""
    if find_spec("aiohttp") is None:
        raise ConfigError("the page of `readqg compare` needs aiohttp, which is not installed: pip install 'readqg[ui]'.")
    from readqg.comparing.command import compare

    return compare(config)


def plan(config: c.PlanConfig) -> Summary:
    """How large a run would be: tokens, hours, memory, disk and cost a stage, here or on another machine.

    Returns `machine`, `corpus`, `stages` (name: `units`, `tokens`, `hours`, `expected_hours` with failures, `lost_hours`, `dollars`,
    `disk_gib`, `memory_gib` of the largest process, ...), `total`, `if_larger`, `not_counted`."""
    from readqg import planning

    return planning.plan(config)


def doctor(config: c.DoctorConfig) -> Summary:
    """What this machine has, what will be slow on it or fail, and what to do.

    Returns how much is `slow` and `missing`, `findings`, and `exit_code` 1 where something is missing."""
    from readqg.checkup import check_up

    return check_up()


def search(config: c.SearchConfig) -> Summary:
    """Search a corpus as the run ranks it: BM25's candidates, the model that it names, BM25's score added.

    Returns the `model`, the `weight` of BM25's score, and `rows`: query, rank, doc_id, score, title, text."""
    from readqg.searching import search

    return search(config)


def inspect(config: c.InspectConfig) -> Summary:
    """Generated queries, the bad ones first: by likelihood, by a judge's score, duplicates, by a pattern.

    Returns counts of the whole folder (of queries `queries`, `distinct`, `empty`, `errors`; of documents `documents`, `empty` with neither
    title nor text, `median_words`), `matching`, and `rows`: those shown."""
    from readqg.inspecting import inspect

    return inspect(config)


def push(config: c.PushConfig) -> Summary:
    """A finished model, or a dataset of queries, to the Hugging Face hub, into a repository that only you see, unless --public.

    Returns `url`, `kind`, `private`, `bytes` and `files`."""
    from readqg.pushing import push

    return push(config)


def clean(config: c.CleanConfig) -> Summary:
    """What folders and cache hold that nobody needs any more (killed tries, checkpoints, sizes not chosen): listed; with --yes, removed.

    Returns `found`, `bytes`, `removed`, and `files`: of each `path`, `bytes` and `what` it is."""
    from readqg.cleaning import clean

    return clean(config)


def verify(config: c.VerifyConfig) -> Summary:
    """Every file of a folder (and of the folders in it) compared with its sha256; raises `FolderError` where one differs.

    Returns `folders` and `problems`."""
    from readqg import shards
    from readqg.errors import FolderError

    root = place_of(config.folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder.")
    inside = [(p.parent, str(p).removeprefix(str(root)).split("/")) for p in root.rglob("_config.json") if shards.is_stage_config(p)]
    folders = sorted(folder for folder, names in inside if not {"_tmp", "_train", "_trials"} & set(names))  # a trial may be cut off
    if not folders:
        raise InputError(f"{root}: nothing in it was made by ReadQG (no _config.json).")
    unfinished = [folder for folder in folders if not (folder / "_SUCCESS").exists()]
    if unfinished:
        raise FolderError("\n".join(f"{folder} is not finished." for folder in unfinished) + "\nGive the command that makes it again.")
    problems = [line for folder in folders for line in shards.verify(folder)]
    if problems:
        raise FolderError(
            "\n".join(problems) + "\nDelete the files named and _SUCCESS beside them, then give the command that made them again."
        )
    return {"folders": len(folders), "problems": 0}


def tune_generator(config: c.TuneGeneratorConfig) -> Summary:
    """Search the generator's hyper-parameters; the winner is a config for `run`.

    Returns what `_SUCCESS` holds, the `winner` (name: value), its `score`, and where `config_file` and `table` are."""
    from readqg.engine import tune
    from readqg.tuning.generator import GeneratorSearch

    return tune.search(GeneratorSearch(config), config)


def tune_reranker(config: c.TuneRerankerConfig) -> Summary:
    """Search the re-ranker's hyper-parameters on held-out synthetic documents; the winner is a config for `run`.

    Returns what `_SUCCESS` holds, the `winner` (name: value), its `score`, and where `config_file` and `table` are."""
    from readqg.engine import tune
    from readqg.tuning.reranker import RerankerSearch

    return tune.search(RerankerSearch(config), config)


def tune_pipeline(config: c.TunePipelineConfig) -> Summary:
    """Search how queries are sampled and learned from, together; the winner is a config for `run`.

    Returns what `_SUCCESS` holds, the `winner` (name: value), its `score`, and where `config_file` and `table` are."""
    from readqg.engine import tune
    from readqg.tuning.pipeline import PipelineSearch

    return tune.search(PipelineSearch(config), config)


def submit(config: c.SubmitConfig) -> Summary:
    """A stage as a job on a running Ray cluster, its log shown here; `--attach JOB` looks at one that is there.

    Returns `job`, `status`, and `exit_code`: the job's own."""
    from readqg.engine import submit

    return submit.submit(config)


def run(config: c.RunConfig) -> Summary:
    """The whole way for one corpus: from its documents to a re-ranker, a ranking and a report.

    Returns the content of `summary.json`: `use` (the model to use), `use_folder` (where it is), `guard`, `evaluation`, `fusion_weight`,
    `quality`, `corpus`, `seconds` by stage, `cut`, `grid`, `rounds`, `report`, `sample`, `config`, `out`."""
    from readqg.pipeline import run as run_pipeline

    return run_pipeline(config)


def experiment(config: c.ExperimentConfig) -> Summary:
    """Recipes on collections with several seeds, from one YAML file: tables with intervals and tests of significance.

    Returns `cells`, `done`, `failed` (cell: why), `exit_code`, and where `results_parquet`, `tables_md` and `tables_html` are."""
    from readqg.experiments import experiment as run_experiment

    return run_experiment(config)


def experiment_cells(config: c.ExperimentConfig) -> list[str]:
    """The names of an experiment's cells in the order in which they are done, their settings resolved; raises `ConfigError` for a fault."""
    from readqg.experiments.matrix import cells_of, read_matrix

    return [cell.name for cell in cells_of(read_matrix(config.file))]
