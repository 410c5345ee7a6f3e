"""Block sizes of scheduler and hashes, from the sizes of the groups (fact 9)."""

from types import SimpleNamespace

import pytest
from support.managers import full, make_config, mamba, window

from kvgpu.config.block_sizes import ends_inside_blocks, resolve_kv_cache_block_sizes
from kvgpu.errors import ConfigError


def engine(block_size=16, caching=True, ranks=(1, 1), connector=None, **cache):
    """The part of an engine's configuration that is read."""
    return SimpleNamespace(
        cache_config=SimpleNamespace(block_size=block_size, enable_prefix_caching=caching, **cache),
        parallel_config=SimpleNamespace(decode_context_parallel_size=ranks[0], prefill_context_parallel_size=ranks[1]),
        kv_transfer_config=connector,
    )


@pytest.mark.parametrize(("ranks", "size"), [((1, 1), 16), ((2, 1), 32), ((1, 4), 64), ((2, 4), 128)], ids=str)
def test_a_single_group_uses_its_block_times_the_ranks(ranks, size):
    config = make_config(full(16))
    assert resolve_kv_cache_block_sizes(config, engine(ranks=ranks)) == (size, size)


def test_without_groups_the_size_is_that_of_the_engine():
    assert resolve_kv_cache_block_sizes(make_config(), engine(block_size=8)) == (8, 8)


@pytest.mark.parametrize(("sizes", "expected"), [((16, 16), (16, 16)), ((32, 16), (32, 16)), ((24, 16, 12), (48, 4))])
def test_several_groups_meet_at_the_least_multiple_and_hash_by_the_greatest_divisor(sizes, expected):
    config = make_config(*(window(size, 64) for size in sizes))
    assert resolve_kv_cache_block_sizes(config, engine()) == expected


def test_a_configured_hash_block_is_used():
    config = make_config(full(32), window(16, 64))
    assert resolve_kv_cache_block_sizes(config, engine(hash_block_size=8)) == (32, 8)


@pytest.mark.parametrize("hash_block_size", [32, 12])
def test_a_hash_block_that_divides_not_every_block_is_refused(hash_block_size):
    config = make_config(full(32), window(16, 64))
    with pytest.raises(ConfigError, match="must divide every block size"):
        resolve_kv_cache_block_sizes(config, engine(hash_block_size=hash_block_size))


@pytest.mark.parametrize(
    ("caching", "connector", "expected"), [(False, None, (32, 32)), (False, object(), (32, 16)), (True, None, (32, 16))]
)
def test_fine_hashes_are_for_caching_or_a_connector(caching, connector, expected):
    config = make_config(full(32), window(16, 64))
    options = engine(caching=caching, connector=connector)
    assert resolve_kv_cache_block_sizes(config, options) == expected


@pytest.mark.parametrize(("block_size", "expected"), [(16, (32, 32)), (32, (32, 16))])
def test_states_of_another_size_than_the_cache_block_prevent_fine_hashes(block_size, expected):
    config = make_config(full(16), mamba(32))
    assert resolve_kv_cache_block_sizes(config, engine(block_size=block_size)) == expected


@pytest.mark.parametrize("ranks", [(2, 1), (1, 2)])
def test_context_parallelism_with_several_groups_is_refused(ranks):
    config = make_config(full(32), window(16, 64))
    with pytest.raises(ConfigError, match="single cache group"):
        resolve_kv_cache_block_sizes(config, engine(ranks=ranks))


NUMBERS = [None, "16", 16.0, True, 0, -16, 2**31, 2**70]


@pytest.mark.parametrize("number", NUMBERS)
def test_sizes_that_are_no_sizes_are_refused(number):
    several = make_config(full(32), window(16, 64))
    for config, options in [
        (make_config(), engine(block_size=number)),
        (make_config(full(16)), engine(ranks=(number, 1))),
        (make_config(full(16)), engine(ranks=(1, number))),
        (several, engine(ranks=(1, number))),
        (several, engine(hash_block_size="none" if number is None else number)),
    ]:
        with pytest.raises(ConfigError):
            resolve_kv_cache_block_sizes(config, options)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (None, engine()),
        (make_config(full(16)), None),
        (make_config(full(16)), SimpleNamespace()),
        (SimpleNamespace(kv_cache_groups=None), engine()),
        (SimpleNamespace(kv_cache_groups=[None]), engine()),
        (SimpleNamespace(kv_cache_groups=[1, 2]), engine()),
        (
            make_config(full(32), window(16, 64)),
            SimpleNamespace(cache_config=SimpleNamespace(), parallel_config=engine().parallel_config),
        ),
    ],
)
def test_a_configuration_without_its_parts_is_refused(config, options):
    with pytest.raises(ConfigError, match="part that is needed"):
        resolve_kv_cache_block_sizes(config, options)


def test_sizes_without_a_common_multiple_in_range_are_refused():
    config = make_config(full(2**16 + 1), window(2**16 - 1, 64))
    with pytest.raises(ConfigError, match="least multiple"):
        resolve_kv_cache_block_sizes(config, engine())


@pytest.mark.parametrize(
    ("specs", "hash_size", "ranks", "expected"),
    [
        ([full(16), mamba(16, "align")], 16, 1, False),
        ([full(16), mamba(64, "align")], 16, 1, True),
        ([full(16), mamba(64, "none")], 16, 1, False),
        ([window(32, 64), mamba(64, "align")], 16, 1, False),  # a window is hit at ends of its blocks only
        ([window(16, 64), mamba(64, "align")], 16, 1, True),
        ([full(16), mamba(16, "align")], 16, 2, True),
    ],
)
def test_blocks_of_states_that_cover_more_than_a_hash_would_be_hit_inside(specs, hash_size, ranks, expected):
    assert ends_inside_blocks(make_config(*specs).kv_cache_groups, hash_size, ranks) is expected
