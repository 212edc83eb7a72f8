"""The MiniLM-L12 cross-encoder's dynamically quantised ONNX file as a Hugging Face folder of float32 safetensors.

In that file float initialisers bear their Hugging Face names. A quantised weight W is int8 with a scale and a zero point, and is
the second input of a MatMulInteger node whose name is the parameter's path; ONNX multiplies x W where torch multiplies x W^T.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from readqg.errors import ModelError

# The package holds the graph and the tokenizer but no configuration. The values are those of the published model.
_CONFIG: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"},
}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def convert(file: Path, folder: Path) -> None:
    """Dequantise `file` (a weight is (q - zero point) * scale) and write config, weights and tokenizer into `folder`.

    Raises `ModelError` where the package that reads ONNX is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise ModelError(f"{error.name} is needed to read {file.name}: pip install 'readqg[sample]'") from error

    graph = onnx.load(file).graph
    tensors = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    products = {n.input[1]: n.name for n in graph.node if n.op_type == "MatMulInteger"}
    save_file(_parameters(tensors, products), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_CONFIG, indent=2) + "\n")
    for name in _TOKENIZER_FILES:
        shutil.copyfile(file.parent / name, folder / name)


def _parameters(tensors: dict[str, np.ndarray], products: dict[str, str]) -> dict[str, np.ndarray]:
    """The model's parameters by their Hugging Face names, from initialisers and {quantised weight: MatMulInteger node}."""
    parameters = {}
    for name, values in tensors.items():
        base = name.removesuffix("_quantized")
        if base != name:
            weight = (values.astype(np.float32) - tensors[f"{base}_zero_point"].astype(np.float32)) * tensors[f"{base}_scale"]
            node = products.get(name)
            weight = weight if node is None else weight.T
            parameters[base if base.endswith(".weight") else _parameter_name(node)] = np.ascontiguousarray(weight)
        elif name.startswith(("bert.", "classifier.")) and not name.endswith(("_scale", "_zero_point")):
            parameters[name] = values
    return parameters


def _parameter_name(node: str | None) -> str:
    """`/bert/encoder/layer.1/output/dense/MatMul_quant` -> `bert.encoder.layer.1.output.dense.weight`."""
    if node is None:
        raise ModelError("the ONNX file is not of the known form: a quantised weight belongs to no MatMulInteger node")
    return ".".join(node.strip("/").split("/")[:-1]) + ".weight"
