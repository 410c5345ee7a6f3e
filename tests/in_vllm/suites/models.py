"""Models that exist as configurations only, in a folder like the cache of a hub: vLLM's tests name them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

REVISION = "0" * 40
SPECIAL = ["</s>", "<pad>", "<unk>", "<image>"]
OPT = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "hidden_size": 768,
    "ffn_dim": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "word_embed_proj_dim": 768,
    "max_position_embeddings": 2048,
    "vocab_size": 50_272,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "torch_dtype": "float16",
}
LLAVA = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "image_token_index": 259,
    "pad_token_id": 257,
    "image_seq_length": 576,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "torch_dtype": "float16",
    "text_config": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "num_hidden_layers": 32,
        "max_position_embeddings": 4096,
        "vocab_size": 32_064,
        "torch_dtype": "float16",
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "image_size": 336,
        "patch_size": 14,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "projection_dim": 768,
        "vocab_size": 32_000,
    },
}
IMAGES = {
    "image_processor_type": "CLIPImageProcessor",
    "processor_class": "LlavaProcessor",
    "crop_size": {"height": 336, "width": 336},
    "size": {"shortest_edge": 336},
}
PROCESSOR = {
    "processor_class": "LlavaProcessor",
    "image_token": "<image>",
    "patch_size": 14,
    "num_additional_image_tokens": 1,
    "vision_feature_select_strategy": "default",
}


def _write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


def _add(home: Path, name: str, config: dict[str, Any], **tokenizer_options: Any) -> Path:
    """Write the configuration of a model and a tokenizer that knows bytes only; return the folder."""
    root = home / "hub" / f"models--{name.replace('/', '--')}"
    folder = root / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs/main").write_text(REVISION)
    _write(folder, "config.json", config)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={each: place for place, each in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write(
        folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **tokens, **tokenizer_options}
    )
    return folder


def make_models(home: Path) -> None:
    """Write the models of the suites to an empty folder, which HF_HOME is to name."""
    _add(home, "facebook/opt-125m", OPT)
    image = {"processor_class": "LlavaProcessor", "extra_special_tokens": {"image_token": "<image>"}}
    folder = _add(home, "llava-hf/llava-1.5-7b-hf", LLAVA, **image)
    _write(folder, "preprocessor_config.json", IMAGES)
    _write(folder, "processor_config.json", PROCESSOR)
