"""Tiny models that tests build: real classes of transformers, random weights, loadable folders."""

import statistics
import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from readqg.config import TrainGeneratorConfig
from readqg.generator.backbone import Backbone
from readqg.generator.prompts import SoftPrompt
from readqg.shards import OutputFolder
from readqg.stage import ShardResult

WORDS = ["the", "wing", "flow", "boundary", "layer", "shock", "heat", "query", "document", "relevant", "what", "is", "of"]


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over a few words and single characters, so that any ASCII text has tokens."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*specials, *WORDS, *characters, *("##" + c for c in characters)]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_cross_encoder(folder: Path, max_positions: int = 64, seed: int = 0) -> Path:
    """A BERT cross-encoder of two layers and one label whose logits differ from pair to pair."""
    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=max_positions, num_labels=1, initializer_range=0.3,
    )
    torch.manual_seed(seed)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_bi_encoder(folder: Path, max_positions: int = 64, seed: int = 0) -> Path:
    """A BERT encoder of two layers whose vectors differ from text to text; pooling is the caller's."""
    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=max_positions, initializer_range=0.3,
    )
    torch.manual_seed(seed)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Unigram over a few words and single characters, in T5's form: `<pad>`, `</s>`, `<unk>`, pieces beginning with a bar."""
    characters = string.ascii_letters + string.digits + string.punctuation
    words = ["▁true", "▁false", *("▁" + word for word in WORDS)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(word, -4.0) for word in words] + [(c, -5.0) for c in characters]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    metaspace = {"replacement": "▁", "prepend_scheme": "always"}
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**metaspace)])
    backend.decoder = decoders.Metaspace(**metaspace)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_t5(folder: Path, tied: bool = True, seed: int = 0) -> Path:
    """A T5 of two layers. `tied`: the output layer is the input embeddings, scaled, as in T5 1.0; else it is its own, as in
    Flan-T5. (T5's config class always says tied; `tie_word_embeddings=False` tells it not to scale.)"""
    tokenizer = t5_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.1,
        feed_forward_proj="relu" if tied else "gated-gelu", tie_word_embeddings=tied,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, in the form of GPT-2 and its heirs, so that any text has tokens and a line break is one of them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(["<|end|>", "<|start|>", *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|end|>", eos_token="<|end|>", bos_token="<|start|>")


def tiny_llama(folder: Path, tied: bool = True, seed: int = 0) -> Path:
    """A Llama of two layers with grouped keys and values; its end token also pads, as SmolLM2's does."""
    tokenizer = llama_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, tie_word_embeddings=tied,
        bos_token_id=1, eos_token_id=0, pad_token_id=0,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_models(folder: Path) -> list[str]:
    """`backbone`, `prompts` and `start` in `folder`, and the flags with which `readqg run` there takes them, at its smallest."""
    backbone = tiny_llama(folder / "backbone")
    tiny_cross_encoder(folder / "start")
    config = TrainGeneratorConfig(pairs="", out="", backbone=str(backbone))
    (folder / "prompts").mkdir()
    SoftPrompt.initial(Backbone.load(backbone), config, "none").save(folder / "prompts")
    return ["--prompts", "prompts", "--backbone", "backbone", "--start", "start", "--max-documents", "24", "--max-queries", "6",
            "--generate.max-new-tokens", "6", "--generate.document-tokens", "32", "--reranker.max-length", "48", "--rank.max-length", "48",
            "--retrieve.top-k", "5", "--compute.precision", "fp32", "--compute.max-error-share", "0.5"]


def centre(cross_encoder: Path, scores: Path) -> None:
    """Half of these scores positive, half negative, from now on: a random model's all have one sign."""
    weights = load_file(cross_encoder / "model.safetensors")
    weights["classifier.bias"] -= statistics.median(pq.read_table(scores)["score"].to_pylist())
    save_file(weights, cross_encoder / "model.safetensors", metadata={"format": "pt"})


def write_folder(path: Path, rows: list[dict], schema: pa.Schema) -> Path:
    """A finished folder of one part."""
    folder = OutputFolder.begin(path, "test", {})
    folder.commit(0, 1, ShardResult(pa.Table.from_pylist(rows, schema), len(rows), 0, 0))
    folder.finish(1)
    return path
