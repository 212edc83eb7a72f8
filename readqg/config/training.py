"""Training the two models. "2", "3.2", ... name the section of the method; units stand in the name or the docstring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from readqg.config.base import Location, OptionalLocation, Settings, later, placement
from readqg.config.machine import FLAN_T5, MINILM_L6, SMOLLM2, Compute
from readqg.errors import ConfigError

FEWEST_DOCUMENTS = 3
"""That a re-ranker is trained with: two, for Eq. 5 needs another document in the batch, and one held out."""
FEWEST_HELD_OUT = 5
"""Documents that can show a gain at p <= 0.05: all of four better by chance alone has p = 1/16."""


class GeneratorSettings(Settings):
    """Section 2."""

    profile: Literal["paper", "authors"] = "paper"
    """Which form the losses and the sampling of pairs take."""
    n_relevance: int = Field(5, ge=0)
    """Embeddings of the relevance prompt, Eq. 1; section 2."""
    n_instruction: int = Field(10, ge=0)
    """Embeddings of the instruction prompt."""
    instruction: str = "Generate a question for this passage with the labels:"
    """The text whose embeddings the instruction prompt starts from."""
    separator: str = "\nQuestion:"
    """Decoder-only backbones: text between the document and the query."""
    m: int = Field(4, ge=1)
    """Positives, and negatives, of a document in a step."""
    documents_per_step: int = Field(4, ge=1)
    """Documents of a batch, m + m queries each."""
    steps: int = Field(20_000, ge=0)
    """Steps of the optimizer."""
    learning_rate: float = Field(1e-2, gt=0)
    """Of the optimizer, after the warm-up."""
    schedule: Literal["constant", "linear"] = "constant"
    """What the learning rate does after the warm-up: stay, or fall to 0 with the last step."""
    warmup_steps: int = Field(0, ge=0)
    """Over which the learning rate rises from 0."""
    document_tokens: int = Field(128, ge=1)
    """Of a document; the rest is cut."""
    query_tokens: int = Field(16, ge=2)
    """Of a query, its end token included."""
    temperature: float = Field(0.25, gt=0)
    """tau of Eq. 3."""
    margin: float = 1.0
    """eps of Eq. 4, nats."""
    w_mle: float = Field(1.0, ge=0)
    """Weight of Eq. 2; 0 switches a loss off, and its computation."""
    w_sc: float = Field(1.0, ge=0)
    """Weight of Eq. 3."""
    w_cal: float = Field(1.0, ge=0)
    """Weight of Eq. 4."""
    unconditional: bool = False
    """A control without relevance: positive queries alone, all under r = 1. Needs w_sc and w_cal 0."""
    length_normalised: bool = False
    """Eq. 4 on log-likelihoods a token instead of summed ones."""
    dropout: bool = False
    """Dropout in the frozen backbone while training (on in the authors' code)."""
    held_out_documents: int = Field(64, ge=0)
    """Documents, drawn by a stable hash, kept out of training for validation."""
    seed: int = 0
    """Of what is drawn for each step, and of dropout."""

    @model_validator(mode="after")
    def _unconditional_fits(self) -> GeneratorSettings:
        if self.unconditional and (self.w_sc or self.w_cal):
            raise ValueError("unconditional leaves nothing for Eq. 3 and 4 to tell apart: set w_sc and w_cal to 0")
        if not self.w_mle and not self.w_sc and not self.w_cal:
            raise ValueError("w_mle, w_sc and w_cal are all 0, so there is nothing to learn: set one above 0")
        return self


class TrainSettings(Settings):
    """How the training loop runs; the same for both models. `compute.workers` workers share each batch."""

    checkpoint_steps: int = placement(100, ge=1)
    """Steps between checkpoints, from which an interrupted training goes on: a kill costs one such interval at most."""
    validate_steps: int = Field(200, ge=1)
    """Steps between validations."""
    log_steps: int = Field(1, ge=1)
    """Steps between lines of the log."""
    keep_checkpoints: int = placement(2, ge=1)
    """Checkpoints kept, the latest ones."""
    accumulation: int = Field(1, ge=1)
    """Batches whose gradients make one step. A loss is a mean over one batch, a step's gradient the mean over its batches. The last
    step is filled up from another epoch."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Torch's."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO: what is split among the workers. 1: optimizer states; 2: gradients too; 3: parameters too."""
    offload: bool = placement(False)
    """ZeRO 2 and 3: optimizer states (with 3, parameters too) lie in the CPU's memory instead of the GPU's."""
    min_workers: int | None = placement(None, ge=1)
    """Go on with as few workers as this where nodes are lost, and with up to `compute.workers` where they come back. ZeRO 0 only:
    what ZeRO splits among the workers cannot be given to another number of them."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = placement(("tensorboard",))
    """Where metrics go, besides JSON lines. `mlflow` and `wandb` need the extra of that name."""

    @model_validator(mode="after")
    def _zero_fits(self) -> TrainSettings:
        if self.min_workers is not None and self.zero_stage > 0:
            raise ValueError(f"min_workers needs zero_stage 0: DeepSpeed refuses a checkpoint of ZeRO {self.zero_stage} on another "
                             "number of workers. Leave min_workers out, or set zero_stage 0")
        if self.offload and self.zero_stage < 2:
            raise ValueError(f"offload needs zero_stage 2 or 3; found {self.zero_stage}")
        return self


class RerankerTrainSettings(TrainSettings):
    """The same of the re-ranker, whose trainings are shorter."""

    checkpoint_steps: int = placement(20, ge=1)
    """Steps between checkpoints, from which an interrupted training goes on: a kill costs one such interval at most."""
    validate_steps: int = Field(40, ge=1)
    """Steps between validations, which choose the weights."""


class TrainGeneratorConfig(GeneratorSettings):
    pairs: Location
    """The output of `pairs`."""
    out: Location
    """The prompts folder to make."""
    backbone: Location = FLAN_T5
    """The frozen language model."""
    initial: OptionalLocation = None
    """A prompts folder to start from, of the same backbone; none: the embeddings of the instruction, of "true" and of "false".
    On the command line also `--from`."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's."""
    gradient_clip: float = Field(0.0, ge=0)
    """Norm; 0: none."""
    train: TrainSettings = TrainSettings()
    compute: Compute = Compute()


class FewShotConfig(Settings):
    """Prompts made of worked examples, without training (InPars)."""

    pairs: Location
    """Where the examples come from: a document with its best positive query each."""
    out: Location
    """The prompts folder to make."""
    backbone: Location = SMOLLM2
    """The language model."""
    examples: int = Field(3, ge=1)
    """Worked examples of a prompt."""
    example_words: int = Field(60, ge=1)
    """Words of an example's document at most."""
    seed: int = 0
    """Which documents are drawn."""


class RerankerSettings(Settings):
    """Section 4."""

    sign: Literal["paper", "authors"] = "paper"
    """Of Eq. 6; `authors`: turned, as in the released code."""
    activation: Literal["identity", "sigmoid"] = "identity"
    """Of the logits in Eq. 6."""
    negative_pair: Literal["query_query", "query_document"] = "query_query"
    """Eq. 6's F(q, n), or F(n, d) in its place."""
    negative: Literal["generated", "other_document", "last_positive"] = "generated"
    """Where n of Eq. 6 comes from: the document's query at `negative_relevance`; or, as a placebo, another document's positive query, or
    the document's last query at r = 1, which is then no positive (two samples at least are needed)."""
    negative_relevance: float = Field(0.0, ge=0, lt=1)
    """The r that generated negatives were asked at. A little above 0, they stay nearer to their document's subject and are harder."""
    margin: float = 0.0
    """Of Eq. 6, in the activation's unit."""
    w_mr: float = Field(1.0, ge=0)
    """Weight of Eq. 6; 0: positives only."""
    graded: int = Field(0, ge=0)
    """Further queries of each document of a batch, drawn anew from those at any r under 1 that the filters leave and that are not of the
    same words, whose scores are to follow the order of r (`losses.graded_loss`); 0: none."""
    w_graded: float = Field(1.0, ge=0)
    """Weight of that loss."""
    batch: int = Field(8, ge=2)
    """Documents a batch, of all workers together."""
    search: Literal["fresh", "cached"] = "fresh"
    """Eq. 5's k(i): searched anew in every batch, or, cached, in the first epoch alone. Then every epoch has the same batches, in
    another order, and k(i) stays what it was found to be; of several samples a document's first is trained on alone."""
    round_trip: int | None = Field(None, ge=1)
    """Only queries at r = 1 whose document BM25 finds among its first so many are positives. Needs `readqg round-trip`."""
    negative_round_trip: int | None = Field(None, ge=1)
    """A query at the negatives' r whose document BM25 finds among its first so many is no negative. Needs `readqg round-trip`."""
    ratio_min: float | None = None
    """Only queries at r = 1 whose likelihood ratio S(q | d, 1) - S(q | d, 0), in nats, is so much at least are positives. Needs
    `readqg ratio`."""
    score_best: float | None = later(None, gt=0, le=1)
    """Only so large a share of the queries at r = 1, those that the start scores highest with their document, are positives: InPars'
    filter. Needs `readqg score-queries`."""
    unverified: Literal["drop", "positive"] | None = None
    """A query at the negatives' r is one where `negative_round_trip` and the ratio agree that its document does not answer it: not
    found, and a ratio of `negative_ratio_max` at most. Any other is dropped, or used as a positive, for which `round_trip` and
    `ratio_min` then hold, one of them at least. A document that is left without a negative keeps its positive. None: the ratio is not
    asked. Needs `readqg ratio`."""
    negative_ratio_max: float = 0.0
    """nats."""
    mined: int = Field(0, ge=0)
    """Eq. 5's other documents of a query: 0, k(i) of the batch; else so many drawn from those that BM25 finds for the query. Needs
    `readqg round-trip`."""
    mined_from: int = Field(3, ge=1)
    """The first place, from 1, that mined documents are drawn from: the very first may well be relevant too."""
    mined_by: Literal["positive", "negative", "random"] = "positive"
    """Which query of the document BM25 was asked: the positive itself; or the generated negative, whose documents lie beside the
    subject (the paper's future work). For a document without a negative others of the batch stand in. `random`, as a placebo: drawn from
    the whole corpus."""
    w_anchor: float = Field(0.0, ge=0)
    """Weight of the divergence from the start's own scores (`losses.anchor_loss`); 0: none, and no second model."""
    replay: OptionalLocation = None
    """A pairs folder, such as that of MS MARCO, whose documents take `replay_share` of every batch, so that what the start has learned
    there is not forgotten. None: none."""
    replay_share: float = Field(0.25, gt=0, lt=1)
    """Share of a batch's documents, at least one."""
    epochs: int = Field(2, ge=1)
    """Over the documents."""
    learning_rate: float = Field(7e-6, gt=0)
    """Of the optimizer, after the warm-up."""
    schedule: Literal["constant", "linear"] = "linear"
    """What the learning rate does then: stay, or fall to 0 with the last step."""
    warmup_epochs: float = Field(0.1, ge=0)
    """Over which the learning rate rises from 0."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's."""
    gradient_clip: float = Field(1.0, ge=0)
    """Norm; 0: none."""
    max_length: int = Field(384, ge=8)
    """Tokens of a pair; the longer side is cut first."""
    batch_tokens: int = Field(8192, ge=1)
    """Tokens computed at a time, padding included; the losses do not depend on it."""
    held_out_share: float = Field(0.1, gt=0, lt=1)
    """Share of the documents, drawn by a stable hash, kept out of training to choose the weights and for the guard."""
    held_out_max: int = Field(100, ge=1)
    """Held-out documents at most."""
    judge_by_half: bool = later(False)
    """The guard judges by one half of the held-out documents alone, even where training chooses nothing by the other (where it chooses
    among several validations, it does so anyway). For what was chosen by them before: `until_no_gain` sets it, and the config that a
    search writes."""
    seed: int = 0
    """Of the order of the documents, of placebos, of mined documents and graded queries, and of dropout."""

    def held_out(self, documents: int) -> int:
        """Of so many documents with queries, those that are held out."""
        return min(max(1, round(self.held_out_share * documents)), self.held_out_max)

    def batches(self, documents: int) -> int:
        """Of a training with queries for so many documents."""
        return -(-(documents - self.held_out(documents)) // self.written_in_batch(documents)) * self.epochs

    def written_in_batch(self, documents: int) -> int:
        """Documents of a batch that queries were written for, of so many with queries."""
        return min(self.batch - self.replayed, max(FEWEST_DOCUMENTS - 1, documents - self.held_out(documents)))

    @property
    def replayed(self) -> int:
        """Documents of a batch that come from `replay`."""
        return max(1, round(self.replay_share * self.batch)) if self.replay else 0

    @model_validator(mode="after")
    def _unverified_is_searched(self) -> RerankerSettings:
        if self.unverified and not self.negative_round_trip:
            raise ValueError(f"unverified: {self.unverified} needs negative_round_trip, the places among which a negative must not find "
                             "its document: set it to 10, say")
        if self.unverified == "positive" and self.round_trip is None and self.ratio_min is None:
            raise ValueError("unverified: positive would make any negative query a positive, whatever it asks: set round_trip or "
                             "ratio_min, which positives have to pass")
        return self

    @model_validator(mode="after")
    def _mined_by_a_generated_negative(self) -> RerankerSettings:
        if self.mined_by == "negative" and not (self.mined and self.negative == "generated"):
            raise ValueError("mined_by: negative needs mined, the number of documents, and negative: generated")
        if self.mined_by == "random" and not self.mined:
            raise ValueError("mined_by: random needs mined, the number of documents")
        return self

    @model_validator(mode="after")
    def _replay_leaves_two(self) -> RerankerSettings:
        if self.batch - self.replayed < 2:
            raise ValueError(f"replay_share {self.replay_share} of a batch of {self.batch} leaves {self.batch - self.replayed} of its "
                             "documents to the corpus, and Eq. 5 needs two: lower replay_share or raise batch")
        return self

    def check_asked(self, relevances: Sequence[float]) -> None:
        """Raises `ConfigError` where training needs queries at an r that is none of those that they will be asked at."""
        needed = {1.0: "of the positives"}
        if self.negative == "generated" and self.reads_negatives:
            needed[self.negative_relevance] = "reranker.negative_relevance; reranker.w_mr 0 trains without negatives"
        elif self.negative_round_trip and not self.unverified:
            needed[self.negative_relevance] = "reranker.negative_relevance, for reranker.negative_round_trip looks at such queries"
        for r, why in needed.items():
            if r not in relevances:
                raise ConfigError(f"generate.relevances {' '.join(f'{r:g}' for r in relevances)} lacks {r:g}, the r {why}. Add it.")
        if self.graded and min(relevances) >= 1:
            raise ConfigError(f"reranker.graded {self.graded} needs queries at r under 1: set generate.relevances to "
                              "1 0.75 0.5 0.25 0, say.")

    @property
    def reads_negatives(self) -> bool:
        """Whether a document's negative query is used, in Eq. 6 or to mine by."""
        return self.w_mr > 0 or self.mined_by == "negative"

    @property
    def needs_round_trip(self) -> bool:
        return self.deepest_round_trip > 0

    @property
    def deepest_round_trip(self) -> int:
        """Places of BM25's ranking that the settings ask for; of mined ones one is a query's own document."""
        mined = self.mined_from + self.mined if self.mined and self.mined_by != "random" else 0
        return max(self.round_trip or 0, self.negative_round_trip or 0, mined)

    @property
    def needs_scores(self) -> bool:
        return self.score_best is not None

    @property
    def needs_ratio(self) -> bool:
        return self.ratio_min is not None or self.unverified is not None


class TrainRerankerConfig(RerankerSettings):
    queries: Location
    """Generated queries, at r = 1 and at the negatives' r."""
    documents: Location
    """What the queries were generated from, whole."""
    out: Location
    """The model folder to make."""
    start: Location = MINILM_L6
    """The model to train, and to compare with; on the command line also `--from`."""
    train: RerankerTrainSettings = RerankerTrainSettings()
    compute: Compute = Compute()
