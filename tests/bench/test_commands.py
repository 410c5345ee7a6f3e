"""Every benchmark runs small, without peers: it checks, prints, saves rows, and says when something is wrong."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.benchmarks import SMALL, SMALL_IN_VLLM
from support.device.packages import needs

pytestmark = needs("tqdm", "msgspec", "cbor2", "zmq")
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300
"""A benchmark that takes longer hangs."""

MADE_BY_OTHERS = {"gpu", *SMALL_IN_VLLM}
"""Tested elsewhere: in tests/bench/test_gpu.py, and in tests/in_vllm/test_benchmarks.py."""

PLANTED = {
    "calls": "import sides\n"
    "def manager(self, *given):\n"
    "    made = sides.Kvgpu.manager(self, *given)\n"
    "    made.get_computed_blocks = lambda request: (made.empty_kv_cache_blocks, 0)\n"
    "    return made\n"
    "sides.Reference.manager = manager\n",
    "limits": "import limits\nlimits._change = limits.KINDS['change'] = limits._read\n",
    "old_pool": "import old_pool\n"
    "real = old_pool.ServedPool.serve\n"
    "def serve(self, requests):\n"
    "    self.manager.block_pool.state.free.uses['ref_cnt'][5] = 7\n"
    "    return real(self, requests)\n"
    "old_pool.ServedPool.serve = serve\n",
    "pool": "import pool\npool.ONE = pool.ONE.replace('range(1, count)', 'range(2, count)')\n",
    "publisher": "import kvgpu.publishing.replies as r\n"
    "begin = r.Replies._begin\n"
    "def _begin(self, start):\n"
    "    begin(self, start)\n"
    "    if len(self._remaining) > 2:\n"
    "        self._remaining.insert(1, self._remaining.popleft())\n"
    "r.Replies._begin = _begin\n",
    "hashing": "import kvgpu.hashing.functions as h\n"
    "real = h.hash_block_tokens\n"
    "h.hash_block_tokens = lambda fn, parent, ids, extra=None: real(fn, parent, [1, *ids], extra)\n",
    "queues": "import queues\nqueues.Queue.ours = lambda self: [0 for _ in self.rows]\n",
    "queues again": "import queues\n"
    "real, calls = queues.Queue.ours, []\n"
    "def ours(self):\n"
    "    calls.append(real(self))\n"
    "    return calls[-1] if len(calls) != 4 else [calls[-1][0] - 16, *calls[-1][1:]]\n"
    "queues.Queue.ours = ours\n",
    "served/evictions": "from kvgpu.block_pool import BlockPool\nBlockPool.set_eviction = lambda self, name: None\n",
    "table": "import table\ntable._find_all = lambda records, words, keys, seed, out: out.fill(-1)\n",
}
"""Faults that a benchmark, the first word, must not survive; `again`: only what it asks a second time is wrong."""


def run(name, tmp_path, *options, before=""):
    module = name.replace("/", ".")
    code = (
        f"import runpy, sys; sys.path[:0] = ['bench', '.']; sys.argv[0] = 'bench/{name}.py'\n"
        f"{before}\nimport {module}\nsys.exit({module}.main())"
    )
    command = [sys.executable, "-c", code, *SMALL[name], "--data", str(tmp_path), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=SECONDS)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Each benchmark, run once."""
    ran = {}

    def once(name):
        if name not in ran:
            path = tmp_path_factory.mktemp(Path(name).name)
            ran[name] = (run(name, path, "--json", str(path / "rows.json")), path)
        return ran[name]

    return once


def test_every_benchmark_is_tried():
    bench = ROOT / "bench"
    paths = [path for folder in (bench, bench / "served") for path in folder.glob("*.py")]
    modules = {path.relative_to(bench).as_posix()[:-3] for path in paths if "main()" in path.read_text()}
    assert modules == SMALL.keys() | MADE_BY_OTHERS


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_without_peers(done, name):
    ran, _ = done(name)
    assert ran.returncode in (0, 1), ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", SMALL)
def test_rows_are_saved_with_the_command_that_made_them(done, name):
    _, path = done(name)
    with (path / f"{Path(name).name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(row["command"].startswith(f"python bench/{name}.py --") for row in rows)
    assert all(float(row["kvgpu"]) >= 0 for row in rows)


@pytest.mark.parametrize("name", SMALL)
def test_the_same_rows_are_written_as_json(done, name):
    _, path = done(name)
    written = json.loads((path / "rows.json").read_text())
    with (path / f"{Path(name).name}.csv").open(newline="") as file:
        saved = list(csv.DictReader(file))
    assert [(row["metric"], row["case"]) for row in written] == [(row["metric"], row["case"]) for row in saved]


@pytest.mark.parametrize("name", ["calls", "steps", "queues", "hashing"])
def test_without_peers_their_columns_are_empty(done, name):
    _, path = done(name)
    with (path / f"{Path(name).name}.csv").open(newline="") as file:
        peers = {row["peer_name"].split(":")[0] for row in csv.DictReader(file)}
    assert peers <= {"", "limit"}


@pytest.mark.parametrize("name", ["calls", "steps", "queues", "hashing"])
def test_peers_that_are_asked_for_and_missing_are_an_error(tmp_path, name):
    blocked = "sys.modules['vllm'] = None"
    ran = run(name, tmp_path, "--peers", before=blocked)
    assert (ran.returncode, list(tmp_path.glob("*.csv"))) == (2, [])
    assert "vllm" in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize("fault", PLANTED)
def test_with_a_wrong_answer_nothing_is_printed_or_saved(tmp_path, fault):
    ran = run(fault.split()[0], tmp_path, before=PLANTED[fault])
    assert (ran.returncode, list(tmp_path.glob("*.csv"))) == (2, []), ran.stderr
    assert "nothing is printed" in ran.stderr
    assert "ns/" not in ran.stdout
