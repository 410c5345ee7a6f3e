"""Environment variables: what they mean, their defaults, and what a bad value does."""

import pwd
from pathlib import Path

import pytest
from support.managers import admit, full, make_manager, make_request, snapshot, window

from kvgpu import environment
from kvgpu.errors import ConfigError, UnknownNameError

INT_HASHES = "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES"
RETENTION = "VLLM_PREFIX_CACHE_RETENTION_INTERVAL"
CACHE_VARIABLES = ("KVGPU_CACHE_DIR", "XDG_CACHE_HOME", "HOME")


NUMBERS = {
    "KVGPU_HASH_THREADS": environment.hash_threads,
    "KVGPU_CROSSOVER_BLOCKS": environment.crossover_blocks,
    RETENTION: environment.retention_interval,
}
NO_INTEGERS = [
    "many",
    "1.5",
    "64 tokens",
    "0x10",
    "1e3",
    "1_000",
    "+",
    "-",
    "--1",
    "- 1",
    " ",
    " 1",
    "1 ",
    "1\n",
    "²",
    "٣",
    "\uff11",
    "\udcff",
    "9" * 21,
    "9" * 5000,
    "-" + "9" * 5000,
    "0" * 5000 + "1",
]
"""Among them digits of other scripts, which are digits or even integers to Python, and more than `int` takes."""


@pytest.fixture
def set_variables(monkeypatch):
    """Sets variables; None unsets."""

    def choose(**variables):
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return choose


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("/own", "/xdg", "/home/me"), "/own"),
        ((None, "/xdg", "/home/me"), "/xdg/kvgpu"),
        ((None, None, "/home/me"), "/home/me/.cache/kvgpu"),
        (("", "", "/home/me"), "/home/me/.cache/kvgpu"),
    ],
)
def test_compiled_code_lies_in_the_first_directory_that_is_named(set_variables, values, expected):
    set_variables(**dict(zip(CACHE_VARIABLES, values, strict=True)))
    assert environment.cache_dir() == Path(expected)


def test_without_a_home_there_is_no_directory(set_variables, monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    set_variables(**dict.fromkeys(CACHE_VARIABLES))
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert environment.cache_dir() is None


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "host"), ("", "host"), ("host", "host"), ("reference", "reference")]
)
def test_the_backend_is_the_one_named_else_host(set_variables, value, expected):
    set_variables(KVGPU_BACKEND=value)
    assert make_manager(full(4)).block_pool.index.name == expected


def test_an_explicit_backend_wins_over_the_environment(set_variables):
    set_variables(KVGPU_BACKEND="host")
    assert make_manager(full(4), backend="reference").block_pool.index.name == "reference"


def test_an_unknown_backend_is_an_error_that_lists_the_known(set_variables):
    set_variables(KVGPU_BACKEND="nowhere")
    with pytest.raises(UnknownNameError, match=r"'nowhere'.*host.*reference"):
        make_manager(full(4))


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("", None), ("0", 0), ("64", 64), ("-32", -32)])
def test_the_retention_interval_is_a_number_of_tokens_or_unset(set_variables, value, expected):
    set_variables(**{RETENTION: value})
    assert environment.retention_interval() == expected


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", NO_INTEGERS)
def test_a_number_that_is_no_integer_is_an_error_that_names_it(set_variables, name, value):
    set_variables(**{name: value})
    with pytest.raises(ConfigError, match=name) as caught:
        NUMBERS[name]()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_at_most_one_that_counts_blocks(set_variables, name):
    set_variables(**{name: str(2**31 - 1)})
    assert NUMBERS[name]() == 2**31 - 1
    set_variables(**{name: str(2**31)})
    with pytest.raises(ConfigError, match=f"{name}.*2147483647"):
        NUMBERS[name]()


@pytest.mark.parametrize("name", ["KVGPU_HASH_THREADS", "KVGPU_CROSSOVER_BLOCKS"])
@pytest.mark.parametrize("value", ["0", "-1", "-0"])
def test_a_count_below_1_is_an_error(set_variables, name, value):
    set_variables(**{name: value})
    with pytest.raises(ConfigError, match=f"{name}.*from 1 to"):
        NUMBERS[name]()


@pytest.mark.parametrize("value", ["0" * 63, "0" * 65, "g" * 64, "²" * 64, "0" * 64 + "\n", " " + "0" * 63])
def test_a_key_that_is_not_64_digits_is_an_error_that_does_not_show_it(set_variables, value):
    set_variables(KVGPU_HASH_KEY=value)
    with pytest.raises(ConfigError, match="64 hexadecimal digits") as caught:
        environment.hash_key()
    assert value not in str(caught.value)


@pytest.mark.parametrize("value", ["many", "-32", "33"])
def test_a_manager_is_not_made_with_a_bad_retention_interval(set_variables, value):
    set_variables(**{RETENTION: value})
    with pytest.raises(ConfigError):
        make_manager(full(32), window(8, 8))


def test_a_retention_interval_needs_a_sliding_window(set_variables):
    set_variables(**{RETENTION: "64"})
    with pytest.raises(ConfigError):
        make_manager(full(32))


def test_the_retention_interval_is_read_when_a_manager_is_made(set_variables):
    set_variables(**{RETENTION: "0"})
    manager = make_manager(window(4, 4))
    set_variables(**{RETENTION: None})
    request = make_request("r", 32, 4)
    admit(manager, request)
    assert len(manager.block_pool.cached_block_hash_to_block) == 1


@pytest.mark.parametrize(("value", "expected"), [(None, True), ("1", True), ("0", False)])
def test_events_carry_integers_unless_switched_off(set_variables, value, expected):
    set_variables(**{INT_HASHES: value})
    assert environment.int_block_hashes() is expected


@pytest.mark.parametrize("value", ["", "yes", "true", "2", " 1"])
def test_a_setting_for_event_hashes_other_than_0_and_1_is_an_error(set_variables, value):
    set_variables(**{INT_HASHES: value})
    with pytest.raises(ConfigError, match=INT_HASHES):
        environment.int_block_hashes()


def test_a_bad_setting_for_event_hashes_is_noticed_before_anything_changes(set_variables):
    set_variables(**{INT_HASHES: "yes"})
    try:
        manager = make_manager(full(4), enable_kv_cache_events=True)
    except ConfigError:
        return  # noticed at once
    before = snapshot(manager)
    with pytest.raises(ConfigError):
        admit(manager, make_request("r", 32, 4))
    assert snapshot(manager) == before


@pytest.mark.parametrize(
    ("value", "shares"),
    [(None, None), ("", None), ("1", {}), ("a=0.5", {"a": 0.5}), ("a=0.25,team b=0.5", {"a": 0.25, "team b": 0.5})],
)
def test_hints_inside_vllm_are_a_switch_or_shares(set_variables, value, shares):
    set_variables(KVGPU_CACHE_HINTS=value)
    assert environment.vllm_hint_shares() == shares


@pytest.mark.parametrize("value", ["0", "yes", "a", "a=", "=0.5", "a=half", "a=0.1,", "a=0.1,a=0.2", "a=1.2.3", "a=-1"])
def test_other_hints_inside_vllm_are_refused(set_variables, value):
    set_variables(KVGPU_CACHE_HINTS=value)
    with pytest.raises(ConfigError, match="KVGPU_CACHE_HINTS must be"):
        environment.vllm_hint_shares()


@pytest.mark.parametrize(("value", "name"), [(None, "lru"), ("", "lru"), ("arc", "arc")])
def test_the_order_of_eviction_inside_vllm_is_vllm_s_unless_set(set_variables, value, name):
    set_variables(KVGPU_EVICTION=value)
    assert environment.vllm_eviction() == name
