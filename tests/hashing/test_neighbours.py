"""The hashes of a request never depend on what is hashed in the same call."""

from enum import StrEnum
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hashed_requests import FUNCTIONS, by_function, item

from kvgpu.hashing import functions as hashing
from kvgpu.hashing.inputs.extra_keys import written_alike
from kvgpu.hashing.request_hasher import get_request_block_hasher

hashing.init_none_hash(hashing.sha256)
SIZE = 2


class Name(StrEnum):
    A = "a"


class Text(str):
    pass


class Parent(bytes):
    pass


SHARED = "shared" * 50
KEYS = [
    "a",
    Text("a"),
    Name.A,
    np.str_("a"),
    b"a",
    bytearray(b"a"),
    1,
    True,
    1.0,
    0,
    False,
    SHARED,
    "shared" * 50,
    hashing.NONE_HASH,
    ("a", 1),
    ("a", True),
    "",
    "b",
]


def named(key):
    """A short name of extra keys, the same in every process."""
    return "NONE_HASH" if key is hashing.NONE_HASH else f"{type(key).__name__} {key!r:.9}"


keys = st.sampled_from(KEYS) | st.text(max_size=2)
parts = st.fixed_dictionaries(
    {"blocks": st.integers(0, 12), "have": st.integers(0, 2), "kind": st.sampled_from(["list", "int32", "int64"])},
    optional={
        "cache_salt": keys,
        "lora": keys,
        "items": st.lists(st.tuples(keys, st.integers(0, 20), st.integers(1, 9)), max_size=3),
    },
)


def made(part, parent):
    """A new request of another engine, with the given objects as its extra keys."""
    tokens = list(range(SIZE * part["blocks"] + 1))
    if part["kind"] != "list":
        tokens = np.array(tokens, part["kind"])
    request = SimpleNamespace(
        request_id="r",
        all_token_ids=tokens,
        num_tokens=len(tokens),
        block_hashes=[parent] * part["have"],
        cache_salt=part.get("cache_salt"),
    )
    if "lora" in part:
        request.lora_request = SimpleNamespace(lora_name=part["lora"], adapter_id=1)
    places = sorted(part.get("items", []), key=lambda each: each[1])
    request.mm_features = [item(*each) for each in places]
    return request


@by_function
@settings(max_examples=60, deadline=None)
@given(given_parts=st.lists(parts, min_size=1, max_size=6), parent=st.sampled_from([bytes, Parent]))
def test_a_request_is_hashed_in_company_as_alone(name, given_parts, parent):
    parent = parent(b"p" * 32)
    hasher = get_request_block_hasher(SIZE, FUNCTIONS[name])
    alone = [hasher(made(part, parent)) for part in given_parts]
    together = [made(part, parent) for part in given_parts]
    have = [len(request.block_hashes) for request in together]
    hasher.update(together)
    assert [r.block_hashes[n:] for r, n in zip(together, have, strict=True)] == alone


@pytest.mark.parametrize("other", [Text("a"), Name.A, np.str_("a")], ids=lambda key: type(key).__name__)
@by_function
def test_plain_text_behind_equal_text_of_a_subclass_is_hashed_as_alone(name, other):
    hasher = get_request_block_hasher(SIZE, FUNCTIONS[name])
    part = {"blocks": 20, "have": 0, "kind": "int32"}
    together = [made(part | {"cache_salt": salt}, b"") for salt in (other, "a", other)]
    hasher.update(together)
    assert [r.block_hashes for r in together] == [
        hasher(made(part | {"cache_salt": salt}, b"")) for salt in (other, "a", other)
    ]


@pytest.mark.parametrize("one", KEYS, ids=named)
@pytest.mark.parametrize("other", KEYS, ids=named)
def test_only_equal_plain_text_and_tuples_of_the_same_plain_objects_are_known_to_be_written_alike(one, other):
    is_text = type(one) is type(other) is str
    same = one == other if is_text else type(one) is tuple and one is other and {*map(type, one)} <= {str, int}
    assert written_alike((one,), (other,)) is same


@pytest.mark.parametrize("odd", [True, 1.5, Text("a"), ("a",)], ids=repr)
def test_a_tuple_of_what_is_not_plain_is_not_known_to_be_written_alike(odd):
    assert not written_alike((("lora", odd),), (("lora", odd),))


def test_equal_text_in_another_object_is_not_known_to_be_written_alike():
    # Pickle writes the second use of one object as a reference, and another object with the same text in full.
    name = "".join(["na", "me"])
    again = "".join(["na", "me"])
    one, other = (("lora", name, name),), (("lora", name, again),)
    assert (written_alike(one, one), written_alike(one, other)) == (True, False)


def test_none_is_written_like_none_alone():
    assert written_alike(None, None)
    assert not written_alike(None, ())
    assert not written_alike(("a",), None)
