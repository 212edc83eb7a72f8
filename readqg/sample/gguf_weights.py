"""A quantised GGUF language model as a Hugging Face folder of float32 safetensors."""

from __future__ import annotations

from pathlib import Path

from readqg.errors import ModelError


def convert(file: Path, folder: Path) -> None:
    """Dequantise `file` with transformers and write config, weights and tokenizer into `folder`.

    Raises `ModelError` where the packages that read GGUF are not installed."""
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise ModelError(f"{error.name} is needed to read {file.name}: pip install 'readqg[sample]'") from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dequantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
    config = dequantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain float32 now, and a "quantized" model refuses to be saved
    model = AutoModelForCausalLM.from_config(config, dtype="float32")
    model.load_state_dict(dequantised.state_dict(), strict=True)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
