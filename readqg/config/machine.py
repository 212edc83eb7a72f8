"""Where a stage runs, and the models that are named by default."""

from __future__ import annotations

from typing import Literal

from readqg.config.base import Settings, placement

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM_L12 = "cross-encoder/ms-marco-MiniLM-L12-v2"
MINILM_L6 = "cross-encoder/ms-marco-MiniLM-L6-v2"
MINILM_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
FLAN_T5 = "google/flan-t5-base"


class Compute(Settings):
    """Where a stage runs."""

    ray_address: str | None = placement(None)
    """Address of a running Ray cluster; none: a local Ray, started and ended by the command, and in a job of
    Ray's the cluster that it runs on."""
    workers: int = placement(1, ge=1)
    """Model workers at most (one GPU each where there are GPUs)."""
    threads: int = placement(0, ge=0)
    """Threads of a model worker on CPU; 0: the machine's cores shared among the workers."""
    device: Literal["auto", "cpu", "cuda"] = placement("auto")
    """Of a model; `auto`: a GPU where there is one."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 where the processor or GPU has it natively and faster, else fp32."""
    stall_s: float = placement(900.0, gt=0)
    """A worker that has a shard in hand and finishes neither it nor a batch of it for so long is killed, and the shard tried again; so
    is one that reads a shard, or loads its model, for so long. A batch takes seconds, a minute or two where kernels are compiled first
    or a large model runs on a slow CPU."""
    max_error_share: float = placement(0.1, ge=0, le=1)
    """A run fails when more than this share of its rows has an error; what is done stays."""
