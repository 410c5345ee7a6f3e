"""Every public name says what it is; what can be called says how long it takes."""

import inspect
import re
from functools import cached_property

import pytest

import kvgpu

COMPLEXITY = re.compile(r"\bO\([^)]")

VALUES = {name: getattr(kvgpu, name) for name in kvgpu.__all__ if name != "__version__"}


def of_kvgpu(value):
    return (getattr(value, "__module__", None) or "").partition(".")[0] == "kvgpu"


def members_of(cls):
    """Public members that kvgpu's own classes give a class, each as it is written there."""
    members = {}
    for base in filter(of_kvgpu, cls.__mro__):
        for name, member in vars(base).items():
            if not name.startswith("_"):
                members.setdefault(name, member)
    return members


def function_of(member):
    """The function of a method of any kind, or None."""
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    return member if inspect.isfunction(member) and of_kvgpu(member) else None


CLASSES = {name: value for name, value in VALUES.items() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in VALUES.items() if name not in CLASSES}
METHODS, PROPERTIES = {}, {}
for class_name, cls in CLASSES.items():
    for member_name, member in members_of(cls).items():
        if isinstance(member, property | cached_property):
            PROPERTIES[f"{class_name}.{member_name}"] = member
        elif function_of(member) is not None:
            METHODS[f"{class_name}.{member_name}"] = function_of(member)
CALLABLES = {**FUNCTIONS, **METHODS}
DOCUMENTED = {**CLASSES, **PROPERTIES, **CALLABLES}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_name_has_a_docstring_of_its_own(name):
    written = DOCUMENTED[name].__doc__
    assert written
    assert written.strip()
    made_by_dataclass = f"{name}("
    assert not written.startswith(made_by_dataclass)


@pytest.mark.parametrize("name", CALLABLES)
def test_what_can_be_called_states_its_complexity(name):
    assert COMPLEXITY.search(CALLABLES[name].__doc__ or "")


@pytest.mark.parametrize(
    "name",
    [
        "get_hash_fn_by_name",
        "KVCacheManager.allocate_slots",  # plain
        "KVCacheManager.free",  # guarded
        "BlockHashTable.update_async",  # of a class that needs torch to be used
        "Kvgpu128.check",  # static
        "FreeKVCacheBlockQueue.of_state",  # of the class
        "BatchManager.match",  # of a base
        "MambaSpec.copy_with_new_block_size",  # of a base that is not public
    ],
)
def test_all_kinds_of_callables_are_looked_at(name):
    assert name in CALLABLES


@pytest.mark.parametrize("name", ["BlockHashes.index", "HitRule.count", "KVGPUError.add_note"])
def test_what_python_gives_a_class_is_not_looked_at(name):
    assert name not in DOCUMENTED


def test_properties_are_looked_at():
    assert {"KVCacheBlock.ref_cnt", "BlockHashTable.nbytes", "Request.num_tokens"} <= set(PROPERTIES)


@pytest.mark.parametrize(
    ("text", "states"),
    [("Takes it out. O(1).", True), ("Expected O(n) work.", True), ("FOO(1)", False), ("O()", False)],
)
def test_what_counts_as_a_complexity(text, states):
    assert bool(COMPLEXITY.search(text)) is states
