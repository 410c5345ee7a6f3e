"""Extra keys: they tell blocks with equal tokens apart, by LoRA adapter, multimodal items, salt and prompt embeddings.

Requests are duck-typed: `lora_request`, `mm_features`, `cache_salt` and `prompt_embeds` may be missing.
"""

import reprlib
from collections.abc import Callable
from operator import is_
from typing import Any

from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.inputs.mm_items import overlapping_items
from kvgpu.hashing.inputs.prompt_embeds import embeds_digests

ExtraKeys = tuple[Any, ...] | None

_PLAIN = {str, bytes, int, type(None)}
"""Types whose objects are written to the same bytes every time."""


def written_alike(extra: ExtraKeys, other: ExtraKeys) -> bool:
    """Whether the extra keys of two blocks are certain to be serialised to the same bytes.

    They are if both are None; if both are a tuple of one equal, plain string; or if both are a tuple of one tuple of
    the same objects, each of a plain type, as the tagged key of an adapter is. Equality is not enough for others: 1
    equals True and is written differently, a subclass of `str` may equal a plain string, and pickle refers to objects
    that it wrote before. O(length of the string).
    """
    if extra is None or other is None:
        return extra is other
    if not (type(extra) is type(other) is tuple and len(extra) == len(other) == 1):
        return False
    one, same = extra[0], other[0]
    if type(one) is type(same) is tuple:
        return len(one) == len(same) and all(map(is_, one, same)) and set(map(type, one)) <= _PLAIN
    return type(one) is type(same) is str and one == same


def written(serialise: Callable[..., bytes], value: Any, **options: Any) -> bytes:
    """Serialise extra keys.

    Args:
        serialise: `pickle.dumps` or `cbor2.dumps`.
        value: The extra keys.
        options: Passed on to `serialise`.

    Raises:
        ArgumentTypeError: The serialiser cannot write them, because of an unknown object or invalid text.
    """
    try:
        return bytes(serialise(value, **options))
    except MemoryError:
        raise
    except Exception as error:
        raise unwritten(value, error) from error


def unwritten(value: Any, error: Exception) -> ArgumentTypeError:
    """The error to raise after a serialiser has failed."""
    return ArgumentTypeError(
        f"extra keys {reprlib.repr(value)} cannot be serialised, so they cannot be hashed: {error}"
    )


def need_extra_keys(request: Any) -> bool:
    """Whether any block of the request may have extra keys."""
    return bool(
        getattr(request, "mm_features", None)
        or getattr(request, "lora_request", None) is not None
        or getattr(request, "cache_salt", None) is not None
        or getattr(request, "prompt_embeds", None) is not None
    )


def check_text(name: str, text: Any) -> None:
    """Check that text can be written to messages and events.

    Args:
        name: Name of the attribute, for the error.
        text: Its value; anything but text passes.

    Raises:
        ArgumentError: The text has half of a surrogate pair, which a client's JSON can contain: ``"\\ud800"``.

    O(1) for ASCII, else O(length).
    """
    if isinstance(text, str) and not str.isascii(text):
        try:
            str.encode(text)
        except UnicodeEncodeError as error:
            raise ArgumentError(
                f"{name} cannot be encoded as UTF-8: {error.reason} at character {error.start}"
            ) from None


def check_extra_keys(request: Any) -> None:
    """Check that all text in the extra keys of a request can be hashed and published.

    Raises:
        ArgumentError: As in `check_text`; the message names the attribute.

    O(items).
    """
    check_text("cache_salt", getattr(request, "cache_salt", None))
    lora = getattr(request, "lora_request", None)
    if lora is not None:
        check_text("lora_request.lora_name", getattr(lora, "lora_name", None))
    for place, feature in enumerate(getattr(request, "mm_features", None) or ()):
        check_text(f"mm_features[{place}].identifier", getattr(feature, "identifier", None))


def generate_block_hash_extra_keys(
    request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
) -> tuple[ExtraKeys, int]:
    """Generate the extra keys of the block of tokens [start_token_idx, end_token_idx).

    Args:
        request: The request.
        start_token_idx: First token of the block.
        end_token_idx: Token after the last.
        start_mm_idx: Multimodal item to begin with: 0, the item that the call for the previous block returned, or -1
            for the last item.

    Returns:
        A tuple of keys, in the order LoRA name, multimodal items, salt (first block only), prompt embeddings, or None
        if there are none; and the item to begin with for the next block (fact 5).

    O(items of the block).
    """
    items, next_mm = overlapping_items(request, start_token_idx, end_token_idx, start_mm_idx)
    lora = getattr(request, "lora_request", None)
    keys: list[Any] = [lora.lora_name] if lora else []
    keys += [(item.identifier, offset) for item, offset in items]
    salt = getattr(request, "cache_salt", None)
    if start_token_idx == 0 and salt:
        keys.append(salt)
    keys += embeds_digests(request, start_token_idx, end_token_idx)
    return (tuple(keys) if keys else None), next_mm
