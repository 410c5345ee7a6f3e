"""`kvgpu replay`: what it prints and what it writes."""

import json
from collections import Counter
from unittest.mock import patch

import pytest
from support.traces import RecordingManager, line

from kvgpu.cli import main
from kvgpu.hashing.map_keys import get_block_hash, get_group_id, maybe_convert_block_hash

FIELDS = [
    "requests",
    "prompt_tokens",
    "hit_tokens",
    "hit_rate",
    "ideal_hit_rate",
    "blocks",
    "evictions",
    "preemptions",
    "peak_usage",
    "seconds",
    "us_per_block",
    "pool_bytes_per_block",
    "backend",
    "git",
]
SMALL = ["--num-blocks", "2000", "--limit", "12"]


@pytest.fixture
def twice(tmp_path):
    """A trace of one prompt of 64 tokens that comes two times."""
    path = tmp_path / "twice.jsonl"
    request = line(input_length=64, output_length=2, hash_ids=[5])
    path.write_bytes(request + b"\n" + request + b"\n")
    return str(path)


@pytest.fixture
def replay(capsys):
    """Runs `kvgpu replay`; gives exit status, standard output and standard error."""

    def replay(*arguments):
        status = main(["replay", *map(str, arguments)])
        return (status, *capsys.readouterr())

    return replay


@pytest.fixture
def as_json(replay):
    def as_json(*arguments):
        return json.loads(replay("--json", "-", *arguments)[1])

    return as_json


def test_json_has_the_promised_fields(as_json, twice):
    assert [name for name in FIELDS if name not in as_json(twice, *SMALL)] == []


@pytest.mark.parametrize("name", ["seconds", "us_per_block"])
def test_times_are_given_by_phase(as_json, twice, name):
    assert {"hash", "lookup", "allocate", "free"} <= set(as_json(twice, *SMALL)[name])


def test_json_counts_what_happened(as_json, twice):
    data = as_json(twice, *SMALL)
    expected = {
        "requests": 2,
        "prompt_tokens": 128,
        "hit_tokens": 48,
        "hit_rate": 0.375,
        "ideal_hit_rate": 0.375,
        "blocks": 8,
        "output_tokens": 4,
        "computed_tokens": 82,
        "evictions": 0,
        "preemptions": 0,
        "num_blocks": 2000,
        "bad_lines": 0,
        "trace": "twice.jsonl",
        "sweep": [],
    }
    assert {name: data[name] for name in expected} == expected


def test_json_says_which_revision_ran(as_json, twice):
    assert as_json(twice, *SMALL)["git"]


def test_without_git_the_revision_is_unknown(as_json, twice, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert as_json(twice, *SMALL)["git"] == "unknown"


@pytest.mark.parametrize("backend", ["host", "reference"])
def test_the_backend_can_be_chosen(as_json, twice, backend):
    assert as_json(twice, *SMALL, "--backend", backend)["backend"] == backend


@pytest.mark.parametrize("name", ["sha256_cbor", "xxhash", "xxhash_cbor"])
def test_every_hash_function_gives_the_same_hits(as_json, twice, monkeypatch, name):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert as_json(twice, *SMALL, "--hash", name)["hit_tokens"] == 48


def test_options_reach_the_scheduler(as_json, twice):
    data = as_json(twice, *SMALL, "--max-running", 1, "--max-batched-tokens", 32, "--no-decode")
    assert (data["steps"], data["output_tokens"]) == (3, 0)


def test_options_reach_the_clock(as_json, twice):
    options = ["--clock", "trace", "--step-ms", 5, "--token-us", 0, "--max-running", 1]
    data = as_json(twice, *SMALL, *options)
    assert data["virtual_seconds"] == pytest.approx(0.02)
    assert data["waiting_ms"]["mean"] == pytest.approx(5.0)


def test_the_clock_starts_at_the_first_arrival(as_json, tmp_path):
    path = tmp_path / "epoch.jsonl"
    stamps = (1_732_000_000_000, 1_732_000_000_750)
    path.write_bytes(b"\n".join(line(timestamp=t, output_length=0) for t in stamps))
    events = tmp_path / "events"
    options = ["--clock", "trace", "--step-ms", 100, "--token-us", 0, "--events", events]
    assert as_json(path, *SMALL, "--block-size", 4, *options)["virtual_seconds"] == pytest.approx(0.85)
    assert [json.loads(text)[0] for text in events.read_text().splitlines()] == [0.1]


def test_a_trace_whose_ids_are_of_another_size_is_refused_or_read_as_the_option_says(replay, as_json, tmp_path):
    path = tmp_path / "small.jsonl"
    # Half of each prompt is that of the one before.
    prompts = [[*range(31), *range(100 + 31 * i, 131 + 31 * i)] for i in range(20)]
    path.write_bytes(b"\n".join(line(input_length=992, hash_ids=ids) for ids in prompts))
    status, _, err = replay(path, *SMALL)
    assert (status, "--trace-block-size" in err) == (2, True)
    data = as_json(path, "--num-blocks", 5000, "--trace-block-size", 16)
    assert data["hit_tokens"] == 19 * 31 * 16
    assert data["ideal_hit_rate"] == data["hit_rate"] == 0.475


def test_the_behaviour_can_be_chosen(replay, as_json, twice):
    assert as_json(twice, *SMALL)["behaviour"] == "0.23"
    assert as_json(twice, *SMALL, "--behaviour", "0.33")["behaviour"] == "0.33"
    assert "behaviour 0.33" in replay(twice, *SMALL, "--behaviour", "0.33")[1]


def test_an_unknown_behaviour_is_refused(replay, twice):
    status, _, err = replay(twice, *SMALL, "--behaviour", "0.29")
    assert (status, "0.33" in err) == (2, True)


@pytest.mark.parametrize(("interval", "hits"), [("0", 0), ("32", 32), ("all", 48)])
def test_the_retention_interval_can_be_chosen(as_json, tmp_path, interval, hits):
    path = tmp_path / "fork.jsonl"
    ids = [[1, 2, 3, 4, 5], [1, 2, 3, 6, 7]]
    path.write_bytes(b"\n".join(line(input_length=80, output_length=0, hash_ids=each) for each in ids))
    options = ["--trace-block-size", 16, "--groups", "full+swa:16", "--behaviour", "0.33", "--max-running", 1]
    assert as_json(path, *SMALL, *options, "--retention-interval", interval)["hit_tokens"] == hits


def test_a_retention_interval_that_is_no_number_is_refused(capsys, twice):
    with pytest.raises(SystemExit) as leaves:
        main(["replay", twice, "--retention-interval", "many"])
    assert (leaves.value.code, "'many'" in capsys.readouterr().err) == (2, True)


def test_the_block_size_can_be_chosen(as_json, twice):
    data = as_json(twice, *SMALL, "--block-size", 32)
    assert (data["blocks"], data["hit_tokens"]) == (4, 32)


def test_a_limit_takes_the_first_requests(as_json, twice):
    assert as_json(twice, "--num-blocks", 2000, "--limit", 1)["requests"] == 1


def test_json_on_standard_output_stands_alone(replay, twice, tmp_path):
    _, out, err = replay(twice, *SMALL, "--json", "-", "--report", tmp_path / "r.html")
    assert json.loads(out)["requests"] == 2
    assert "hit rate" in err


def test_json_in_a_file_leaves_the_table_on_standard_output(replay, twice, tmp_path):
    status, out, err = replay(twice, *SMALL, "--json", tmp_path / "result.json")
    assert (status, err) == (0, "")
    assert "hit rate (prompt tokens)      37.5%" in out
    assert json.loads((tmp_path / "result.json").read_text())["hit_rate"] == 0.375


def test_skipped_lines_are_counted(replay, twice, tmp_path):
    with open(twice, "ab") as file:
        file.write(b"nonsense\n")
    _, out, _ = replay(twice, *SMALL, "--skip-bad-lines", "--json", tmp_path / "result.json")
    assert "bad lines skipped" in out
    assert json.loads((tmp_path / "result.json").read_text())["bad_lines"] == 1


def test_the_report_is_written_and_named(replay, twice, tmp_path):
    _, out, _ = replay(twice, *SMALL, "--report", tmp_path / "report.html")
    assert f"report: {tmp_path}/report.html" in out
    assert "twice.jsonl" in (tmp_path / "report.html").read_text()


def test_a_sweep_gives_what_single_replays_give(as_json):
    sweep = as_json("--limit", 60, "--num-blocks", 3000, "--sweep-blocks", "400,200")["sweep"]
    single = [as_json("--limit", 60, "--num-blocks", size)["hit_rate"] for size in (400, 200)]
    assert sweep == [{"num_blocks": 400, "hit_rate": single[0]}, {"num_blocks": 200, "hit_rate": single[1]}]
    assert single[0] > single[1]


def test_a_sweep_is_printed(replay):
    _, out, _ = replay(*SMALL, "--sweep-blocks", "500")
    assert "hit rate with 500 blocks" in out


def plainly(event):
    """Class, hashes and group of an event, which is an array, or a map in behaviour 0.33."""
    if isinstance(event, dict):
        return event["type"], event["block_hashes"], event["group_idx"]
    kind, hashes, *rest = event
    return kind, hashes, rest[7 if kind == "BlockStored" else 1]


@pytest.mark.parametrize("behaviour", ["0.23", "0.33"])
@pytest.mark.parametrize("groups", ["full", "full+swa:64+swa:64", "full@32+swa:64"])
def test_events_lead_a_copy_of_the_cache_to_the_same_blocks(replay, tmp_path, groups, behaviour):
    made = []

    def make(*args, **kwargs):
        made.append(RecordingManager(*args, **kwargs))
        return made[-1]

    path = tmp_path / "events.jsonl"
    with patch("kvgpu.replay.run.KVCacheManager", make):
        options = ["--groups", groups, "--behaviour", behaviour, "--events", path]
        replay("--limit", 60, "--num-blocks", 700, *options)
    model = Counter()
    removed = 0
    for text in path.read_text().splitlines():
        _, events, rank = json.loads(text)
        assert rank is None
        for kind, hashes, group in map(plainly, events):
            if kind == "BlockStored":
                model.update((group, block_hash) for block_hash in hashes)
            else:
                assert kind == "BlockRemoved"
                removed += len(hashes)
                model.subtract((group, block_hash) for block_hash in hashes)
    cached = Counter()
    for key, entry in made[-1].block_pool.cached_block_hash_to_block._cache.items():
        name = (get_group_id(key), maybe_convert_block_hash(get_block_hash(key)))
        cached[name] += len(entry) if isinstance(entry, dict) else 1
    assert removed > 0
    assert +model == cached
    assert min(model.values()) >= 0


def test_json_says_which_options_differ_from_their_defaults(as_json, twice):
    settings = as_json(twice, "--num-blocks", 2000, "--hash", "sha256", "--no-decode")["settings"]
    assert settings == {"trace": twice, "--num-blocks": "2000", "--no-decode": "True"}


def test_json_has_the_course_of_the_replay_in_few_parts(as_json):
    data = as_json("--limit", 60, "--num-blocks", 3000)
    parts = data["over_time"]
    assert (parts["requests"][-1], len(parts["requests"])) == (60, 12)
    assert parts["so_far"][-1] == pytest.approx(data["hit_rate"])
    assert [len(values) for values in parts.values()] == [12] * len(parts)
    assert data["quantiles"]["lookup"] == sorted(data["quantiles"]["lookup"])


def test_what_is_lost_to_evictions_is_counted(as_json):
    enough, small = (as_json("--limit", 60, "--num-blocks", size) for size in (9000, 300))
    assert (enough["recomputed_tokens"], enough["early_evictions"]) == (0, 0)
    assert small["recomputed_tokens"] > 0
    assert 0 < small["early_evictions"] < small["evictions"]


def test_the_table_ends_with_what_the_figures_say(replay, twice):
    out = replay(twice, *SMALL)[1]
    assert "2,000 blocks hit 37.5% of the prompt tokens: 100% of what an endless cache would hit." in out
    assert out.endswith("Nothing was evicted.\n")
