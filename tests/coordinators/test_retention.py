"""Retention: windows that are kept at few lengths only, so that long prompts leave room."""

import pytest
from support.managers import admit, cached_places, full, make_manager, make_request, per_backend, window

from kvgpu.errors import ConfigError

RETENTION = "VLLM_PREFIX_CACHE_RETENTION_INTERVAL"


def lookup(manager, tokens, size):
    """(blocks per group, tokens) of the hit of a prompt of consecutive tokens."""
    blocks, length = manager.get_computed_blocks(make_request("asks", tokens, size))
    return [len(group) for group in blocks.blocks], length


@pytest.mark.parametrize(
    ("retention", "flagged", "tokens", "places", "replay"),
    [
        ("64", [], 128, {7, 11, 15}, ([3, 12], 96)),
        ("0", [], 128, {11}, ([3, 12], 96)),
        ("0", [1], 127, {11, 12}, ([3, 12], 96)),
    ],
)
def test_retention_keeps_the_end_of_the_prompt(monkeypatch, retention, flagged, tokens, places, replay):
    monkeypatch.setenv(RETENTION, retention)
    manager = make_manager(full(32), window(8, 8), eagle_groups=flagged)
    request = make_request("a", tokens, 8)
    admit(manager, request)
    assert cached_places(manager, request, 1) == places
    assert lookup(manager, tokens, 8) == replay


def test_without_intermediate_retention_a_shorter_prompt_misses(monkeypatch):
    monkeypatch.setenv(RETENTION, "0")
    manager = make_manager(full(32), window(8, 8))
    admit(manager, make_request("a", 128, 8))
    assert lookup(manager, 96, 8)[1] == 0


@per_backend
def test_four_groups_with_retention_hit_the_retained_length_again(backend, monkeypatch):
    monkeypatch.setenv(RETENTION, "1024")
    manager = make_manager(full(256), window(64, 512), window(8, 128), window(4, 8), num_blocks=800, backend=backend)
    for name, first_token in (("a", 0), ("b", 9000)):
        request = make_request(name, range(first_token, first_token + 4096), 4)
        for _ in range(8):
            assert manager.allocate_slots(request, 512) is not None
            request.num_computed_tokens += 512
        manager.free(request)
        assert lookup(manager, 1800, 4) == ([4, 16, 128, 256], 1024)


def test_retention_needs_a_window(monkeypatch):
    monkeypatch.setenv(RETENTION, "64")
    with pytest.raises(ConfigError, match="sliding-window group"):
        make_manager(full(16))


@pytest.mark.parametrize(
    ("interval", "words"), [("-32", "non-negative"), ("33", "multiple of scheduler_block_size 16"), ("x", "integer")]
)
def test_a_retention_interval_that_cannot_be_kept_is_refused(monkeypatch, interval, words):
    monkeypatch.setenv(RETENTION, interval)
    with pytest.raises(ConfigError, match=words):
        make_manager(window(16, 16))


@pytest.mark.parametrize(("value", "interval"), [("", None), ("0", 0), ("64", 64)])
def test_an_empty_retention_interval_means_dense(monkeypatch, value, interval):
    monkeypatch.setenv(RETENTION, value)
    assert make_manager(window(16, 16)).coordinator.retention_interval == interval
