"""Hash functions that fail at any call, and requests that cannot be hashed, leave all other requests consistent."""

import json
from types import SimpleNamespace

import pytest
from support.hash_chains import chain
from support.hashed_requests import FUNCTIONS, Failing, by_function, drawn_tokens, item, unhashed

from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.request import Request

SIZE = 4
hashing.init_none_hash(hashing.sha256)
SURROGATE = json.loads('"\\ud800"')

by_fault = pytest.mark.parametrize("fault", [ZeroDivisionError, KeyboardInterrupt, SystemExit])


def state(requests):
    return [(list(r.all_token_ids), list(r.block_hashes)) for r in requests]


def foreign(tokens, hashes=(), **attributes):
    return SimpleNamespace(
        request_id="foreign", all_token_ids=tokens, num_tokens=len(tokens), block_hashes=[*hashes], **attributes
    )


def mixed(hasher):
    """Requests with and without hashes, in arrays and in lists."""
    made = [Request(name, drawn_tokens(10, 1), block_hasher=hasher) for name in "ab"]
    made[1].cache_salt = "salt"
    for request in made:
        request.append_unhashed(drawn_tokens(9, 2))
    tokens = drawn_tokens(17, 3)
    return [*made, unhashed("c", tokens), foreign(tokens), foreign(tokens, made[0].block_hashes)]


@by_fault
def test_update_that_fails_at_any_block_appends_nothing(fault):
    function = Failing(fault)
    hasher = get_request_block_hasher(SIZE, function)
    requests = mixed(hasher)
    before, function.calls = state(requests), 0
    hasher.update(mixed(hasher))
    for at in range(function.calls - 4):
        function.calls, function.at = 0, at
        with pytest.raises(fault):
            hasher.update(requests)
        assert state(requests) == before
    function.at = None
    hasher.update(requests)
    assert [len(request.block_hashes) for request in requests] == [4, 4, 4, 4, 4]


@by_fault
def test_a_request_that_takes_no_hashes_leaves_the_others_without(fault):
    class Full(list):
        def extend(self, hashes):
            super().extend(hashes[:1])
            raise fault("on purpose")

    for name in ("sha256", "xxhash"):
        hasher = get_request_block_hasher(SIZE, FUNCTIONS[name])
        requests = mixed(hasher)
        requests[-1].block_hashes = Full(requests[-1].block_hashes)
        before = state(requests)
        linked = [getattr(r.block_hashes, "linked", None) for r in requests]
        with pytest.raises(fault):
            hasher.update(requests)
        assert state(requests) == before
        assert [getattr(r.block_hashes, "linked", None) for r in requests] == linked


@by_fault
def test_hashes_that_become_a_list_are_put_back_into_their_array(fault):
    class Full(list):
        def extend(self, hashes):
            raise fault("on purpose")

    tokens = drawn_tokens(80)
    first = chain(hashing.sha256, tokens[:SIZE], SIZE)
    wide, full = unhashed("wide", tokens), foreign(tokens)
    wide.block_hashes, full.block_hashes = BlockHashes(first), Full()
    with pytest.raises(fault):
        get_request_block_hasher(SIZE, hashing.xxhash).update([wide, full])
    assert (type(wide.block_hashes), wide.block_hashes) == (BlockHashes, first)


@by_fault
@pytest.mark.parametrize("salt", [None, "salt"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["hasher", "any function"])
def test_appending_that_fails_at_any_block_appends_nothing(fault, salt, wrapped):
    function = Failing(fault)
    hasher = get_request_block_hasher(SIZE, function)
    request = Request("r", drawn_tokens(10), cache_salt=salt, block_hasher=(lambda r: hasher(r)) if wrapped else hasher)
    before = state([request])
    for at in range(3):
        function.calls, function.at = 0, at
        with pytest.raises(fault):
            request.append_output_token_ids(drawn_tokens(11))
        assert state([request]) == before
    function.at = None
    request.append_output_token_ids(drawn_tokens(11))
    assert len(request.block_hashes) == 5


@by_fault
def test_a_request_whose_hashing_fails_is_not_made(fault):
    function = Failing(fault)
    function.at = 2
    with pytest.raises(fault):
        Request("r", [1] * 20, block_hasher=get_request_block_hasher(SIZE, function))


def test_the_error_of_a_hash_function_says_of_which_request():
    function = Failing(ZeroDivisionError)
    function.at = 1
    with pytest.raises(ZeroDivisionError) as error:
        get_request_block_hasher(SIZE, function).update([unhashed("that one", [1] * 9)])
    assert error.value.__notes__ == ["while block 1 of request that one was hashed"]


# Text that cannot be encoded

BAD_TEXT = {
    "cache_salt": {"cache_salt": SURROGATE},
    "lora_request.lora_name": {"lora_request": SimpleNamespace(lora_name="a" + SURROGATE, adapter_id=1)},
    "mm_features[1].identifier": {"mm_features": [item("é", 0, 1), item(SURROGATE, 1, 1)]},
}


@pytest.mark.parametrize("attribute", BAD_TEXT)
@pytest.mark.parametrize("hashed", [True, False])
def test_text_that_cannot_be_encoded_is_refused_when_a_request_is_made(attribute, hashed):
    hasher = get_request_block_hasher(SIZE, hashing.sha256) if hashed else None
    with pytest.raises(ArgumentError) as error:
        Request("r", [1, 2], block_hasher=hasher, **BAD_TEXT[attribute])
    assert str(error.value).startswith(f"{attribute} cannot be encoded")


def test_a_name_that_cannot_be_encoded_is_refused():
    with pytest.raises(ArgumentError, match="request_id"):
        Request("r" + SURROGATE, [1, 2])


@pytest.mark.parametrize("text", ["", "plain", "é", "𝄞", "\x00"])
def test_any_other_text_is_taken(text):
    request = Request(
        text,
        [1] * 4,
        cache_salt=text,
        mm_features=[item(text, 0, 1)],
        block_hasher=get_request_block_hasher(SIZE, hashing.sha256_cbor),
    )
    assert len(request.block_hashes) == 1


@pytest.mark.parametrize("attribute", BAD_TEXT)
@pytest.mark.parametrize("blocks", [1, 40])
@by_function
def test_a_request_of_another_engine_with_such_text_is_named_and_leaves_the_others(name, blocks, attribute):
    hasher = get_request_block_hasher(SIZE, FUNCTIONS[name])
    good = unhashed("good", drawn_tokens(blocks * SIZE))
    bad = foreign(drawn_tokens(blocks * SIZE), **BAD_TEXT[attribute])
    with pytest.raises(ArgumentError) as error:
        hasher.update([good, bad])
    assert str(error.value).startswith(f"request foreign: {attribute} cannot be encoded")
    assert (len(good.block_hashes), bad.block_hashes) == (0, [])
    hasher.update([good])
    assert len(good.block_hashes) == blocks


@pytest.mark.parametrize("blocks", [1, 40])
@pytest.mark.parametrize("name", ["sha256", "sha256_cbor", "xxhash", "xxhash_cbor", "kvgpu128"])
def test_extra_keys_that_cannot_be_written_are_refused_and_named(name, blocks):
    hasher = get_request_block_hasher(SIZE, FUNCTIONS[name])
    good = unhashed("good", drawn_tokens(blocks * SIZE))
    bad = foreign(drawn_tokens(blocks * SIZE), cache_salt=lambda: None)
    with pytest.raises(ArgumentTypeError, match=r"request foreign: .*cannot be serialised"):
        hasher.update([good, bad])
    assert len(good.block_hashes) == 0
