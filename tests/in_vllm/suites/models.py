"""Models that exist as configurations only, in a folder like the cache of a hub: vLLM's tests name them."""

import json
from pathlib import Path
from typing import Any

import model_configs as configs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

REVISION = "0" * 40
SPECIAL = ["</s>", "<pad>", "<unk>", "<image>"]
QWEN_SPECIAL = [*SPECIAL, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def _write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


def _add(
    home: Path,
    name: str,
    config: dict[str, Any],
    files: dict[str, Any] | None = None,
    special: list[str] = SPECIAL,
    **tokenizer_options: Any,
) -> None:
    """Write the configuration of a model, other files, and a tokenizer that knows bytes and `special` tokens only."""
    root = home / "hub" / f"models--{name.replace('/', '--')}"
    folder = root / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs/main").write_text(REVISION)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={each: place for place, each in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokens |= {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer_options}
    for file, value in {"config.json": config, "tokenizer_config.json": tokens, **(files or {})}.items():
        _write(folder, file, value)


def make_models(home: Path) -> None:
    """Write the models of the suites to an empty folder, which HF_HOME is to name."""
    _add(home, "facebook/opt-125m", configs.OPT)
    _add(home, "facebook/opt-350m", configs.OPT_LARGER)
    image = {"processor_class": "LlavaProcessor", "extra_special_tokens": {"image_token": "<image>"}}
    _add(home, "llava-hf/llava-1.5-7b-hf", configs.LLAVA, configs.LLAVA_FILES, **image)
    _add(home, "Qwen/Qwen1.5-7B", configs.QWEN)
    _add(home, "Qwen/Qwen3-0.6B", configs.QWEN_SMALL)
    _add(home, "Qwen/Qwen3-Next-80B-A3B-Instruct", configs.QWEN_HYBRID)
    _add(home, "Qwen/Qwen2.5-VL-3B-Instruct", configs.QWEN_SEES, configs.QWEN_SEES_FILES, QWEN_SPECIAL)
