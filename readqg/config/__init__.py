"""One frozen, validated class a stage: the only home of every default. The command line, `jobs/` and YAML files are made from these.

A class named `...Settings` says how a stage works; the `...Config` that extends it adds where its input and output lie, so
`RunConfig` can hold the settings of every stage. Units stand in the name or the docstring; "2", "4", ... name the section of
the method (README, "The method"). Presets are named sets of values: `paper` (the defaults), `authors` (the released code, where
it differs), `small` (a demonstration on a laptop).
"""

from readqg.config.base import (
    Location,
    OptionalLocation,
    Settings,
    identity,
    make,
    merge,
    partial,
    placement,
)
from readqg.config.commands import DoctorConfig, PlanConfig, RunConfig, SubmitConfig, VerifyConfig
from readqg.config.comparing import CompareConfig
from readqg.config.exchange import ExportConfig, ImportConfig, ImportQueriesConfig, ImportSettings
from readqg.config.experiment import Collection, ExperimentConfig, Matrix, Recipe
from readqg.config.machine import (
    FLAN_T5,
    MINILM_L6,
    MINILM_L12,
    SMOLLM2,
    Compute,
)
from readqg.config.presets import (
    PRESETS,
    SAMPLE_PRESET,
    preset,
)
from readqg.config.search import (
    FloatRange,
    GeneratorSpace,
    IntRange,
    PipelineSpace,
    RerankerSpace,
    TuneGeneratorConfig,
    TunePipelineConfig,
    TuneRerankerConfig,
    TuneSettings,
)
from readqg.config.stages import (
    EvaluateConfig,
    FuseConfig,
    FusionSettings,
    GenerateConfig,
    GenerateSettings,
    LabelConfig,
    PairsConfig,
    PairsSettings,
    QualityConfig,
    QualitySettings,
    RankConfig,
    RetrieveConfig,
    RetrieveSettings,
    RoundTripConfig,
    RoundTripSettings,
    ScoreSettings,
)
from readqg.config.training import (
    FewShotConfig,
    GeneratorSettings,
    RerankerSettings,
    TrainGeneratorConfig,
    TrainRerankerConfig,
    TrainSettings,
)

__all__ = [
    "FLAN_T5",
    "MINILM_L6",
    "MINILM_L12",
    "PRESETS",
    "SAMPLE_PRESET",
    "SMOLLM2",
    "Collection",
    "CompareConfig",
    "Compute",
    "DoctorConfig",
    "EvaluateConfig",
    "ExperimentConfig",
    "ExportConfig",
    "FewShotConfig",
    "FloatRange",
    "FuseConfig",
    "FusionSettings",
    "GenerateConfig",
    "GenerateSettings",
    "GeneratorSettings",
    "GeneratorSpace",
    "ImportConfig",
    "ImportQueriesConfig",
    "ImportSettings",
    "IntRange",
    "LabelConfig",
    "Location",
    "Matrix",
    "OptionalLocation",
    "PairsConfig",
    "PairsSettings",
    "PipelineSpace",
    "PlanConfig",
    "QualityConfig",
    "QualitySettings",
    "RankConfig",
    "Recipe",
    "RerankerSettings",
    "RerankerSpace",
    "RetrieveConfig",
    "RetrieveSettings",
    "RoundTripConfig",
    "RoundTripSettings",
    "RunConfig",
    "ScoreSettings",
    "Settings",
    "SubmitConfig",
    "TrainGeneratorConfig",
    "TrainRerankerConfig",
    "TrainSettings",
    "TuneGeneratorConfig",
    "TunePipelineConfig",
    "TuneRerankerConfig",
    "TuneSettings",
    "VerifyConfig",
    "identity",
    "make",
    "merge",
    "partial",
    "placement",
    "preset",
]
