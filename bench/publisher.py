"""What events cost the engine, as maps and as arrays, and whether replays are complete beside clients of any speed.

    python bench/publisher.py [--batches 10000] [--wait 3] [--rounds 3] [--json -]

Clients are processes of their own. What they get is compared with what was published before its figures count.
Exit status 1 if a goal is missed.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
import zmq  # noqa: E402
from harness import Row, benchmark_options, compared, finish  # noqa: E402
from tqdm import tqdm  # noqa: E402

from kvgpu.events import maps, messages  # noqa: E402
from kvgpu.events.messages import BlockStored, KVEventBatch  # noqa: E402
from kvgpu.publishing.messages import MessageEncoder  # noqa: E402
from kvgpu.publishing.publisher import ZmqEventPublisher  # noqa: E402

SIZES = {"small batches": 16, "batches of 5 KB": 1500}
"""Tokens in a batch, of three bytes each."""
SPEEDS = {"fast": (0.0, 0.0), "slow": (1.0, 0.0002)}
"""Whether a client waits before it reads, and seconds that it sleeps after each message."""
REQUESTS = 20_000
LIVE = 1000
TIMEOUT_MS = 60_000

ASK = """
import json, sys, time, zmq
endpoint, wait, pause, timeout = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
socket = zmq.Context.instance().socket(zmq.DEALER)
socket.linger, socket.rcvtimeo = 0, timeout
socket.connect(endpoint)
start = time.perf_counter()
socket.send_multipart((b"", bytes(8)))
time.sleep(wait)
numbers, sizes = [], set()
try:
    while not numbers or numbers[-1] != -1:
        _, number, payload = socket.recv_multipart()
        numbers.append(int.from_bytes(number, "big", signed=True))
        sizes.add(len(payload))
        if pause:
            time.sleep(pause)
except zmq.Again:
    pass
print(json.dumps([time.perf_counter() - start - wait, max(sizes), numbers]))
"""

LISTEN = """
import json, sys, time, zmq, msgspec
socket = zmq.Context.instance().socket(zmq.SUB)
socket.linger, socket.rcvtimeo, socket.rcvhwm = 0, int(sys.argv[2]), 0
socket.subscribe(b"")
socket.connect(sys.argv[1])
late = []
while True:
    _, number, payload = socket.recv_multipart()
    now, sent = time.monotonic(), msgspec.msgpack.decode(payload)[0]
    if sent == 0:
        print("ready", flush=True)
    elif sent < 0:
        break
    else:
        late.append((now - sent) * 1000)
print(json.dumps(late))
"""


@cache
def ids_of(tokens: int) -> list[int]:
    """So many token ids."""
    return list(range(100_000, 100_000 + tokens))


def batch(tokens: int, ts: float = -1.0) -> KVEventBatch:
    """A batch of one event. The garbage collector has one list of tokens to look through, not one a batch."""
    stored = BlockStored([1], None, ids_of(tokens), 16, None, "GPU", None)
    return KVEventBatch(ts=ts, events=[stored])


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """A client."""
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def result_of(client: "subprocess.Popen[str]") -> Any:
    """What a client prints at its end."""
    said, _ = client.communicate(timeout=600)
    assert client.returncode == 0, "a client failed"
    return json.loads(said.splitlines()[-1])


def publisher_of(batches: int, tokens: int) -> ZmqEventPublisher:
    """A publisher with so many batches to replay."""
    publisher = ZmqEventPublisher(
        endpoint="tcp://127.0.0.1:*", replay_endpoint="tcp://127.0.0.1:*", buffer_steps=batches, max_queue_size=batches
    )
    for _ in range(batches):
        publisher.publish(batch(tokens))
    deadline = time.monotonic() + TIMEOUT_MS / 1e3
    while not asked(publisher, batches - 1):
        assert time.monotonic() < deadline, "the last batch is not kept"
        time.sleep(0.05)
    assert publisher.num_dropped == 0, "batches were dropped"
    return publisher


def asked(publisher: ZmqEventPublisher, first: int) -> int:
    """Messages that are kept from a number on."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger, socket.rcvtimeo = 0, TIMEOUT_MS
    socket.connect(str(publisher.replay_endpoint))
    socket.send_multipart((b"", first.to_bytes(8, "big")))
    kept = 0
    while socket.recv_multipart()[2]:
        kept += 1
    socket.close()
    return kept


def replays(options: argparse.Namespace) -> Iterator[Row]:
    """Time and completeness of replays. The end marker counts as a message that may be missing."""
    for size, tokens in SIZES.items():
        publisher = publisher_of(options.batches, tokens)
        expected = [*range(options.batches), -1]
        for speed, (wait, pause) in SPEEDS.items():
            times, missing = [], 0
            for _ in tqdm(range(options.rounds), disable=None, desc=f"{size}, {speed}"):
                client = start(ASK, publisher.replay_endpoint, wait * options.wait, pause, TIMEOUT_MS)
                seconds, largest, numbers = result_of(client)
                assert largest > 3 * tokens, "a payload is too small"
                assert numbers == sorted(set(numbers) - {-1}) + [-1] * (-1 in numbers), "disorder"
                times.append(seconds)
                missing = max(missing, len(set(expected) - set(numbers)))
            case = f"{options.batches:,} {size}, {speed} client"
            yield Row("messages missing in a replay", case, "messages", missing).stay_below(0)
            yield compared("replay", case, "s", times)
        publisher.shutdown()


def rude_client(publisher: ZmqEventPublisher) -> "zmq.Socket[bytes]":
    """One that asks again and again and reads nothing."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(str(publisher.replay_endpoint))
    for _ in range(REQUESTS):
        socket.send_multipart((b"", bytes(8)))
    return socket


def calls(options: argparse.Namespace) -> Iterator[Row]:
    """Time of `publish` beside a client that reads nothing."""
    publisher = publisher_of(options.batches, 16)
    rude = rude_client(publisher)
    gc.collect()
    gc.freeze()  # a collection in the middle looks through what this script has imported
    times = []
    for _ in range(options.batches):
        one = batch(1500)
        begun = time.perf_counter()
        publisher.publish(one)
        times.append((time.perf_counter() - begun) * 1e3)
    case = f"{options.batches:,} calls, a client asks {REQUESTS:,} times and reads nothing"
    yield Row("publish, 99th percentile", case, "ms", float(np.quantile(times, 0.99))).stay_below(1)
    yield Row("publish, longest", case, "ms", max(times)).stay_below(20)
    rude.close()
    publisher.shutdown(timeout=60)
    assert publisher.num_dropped == 0, "batches were dropped"
    yield Row("interruption by the machine, longest", "a loop as long", "ms", pause_in(sum(times)))


def pause_in(ms: float) -> float:
    """The longest time, in ms, that the machine keeps a thread without others from running, within so many ms."""
    longest, begun = 0.0, time.perf_counter()
    last = begun
    while last < begun + ms / 1e3:
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest * 1e3


def delays(options: argparse.Namespace) -> Iterator[Row]:
    """Time from `publish` to a subscriber, a batch every 2 ms, without and beside replays."""
    publisher = publisher_of(options.batches, 1500)
    for beside in (False, True):
        listener = start(LISTEN, publisher.endpoint, TIMEOUT_MS)
        assert listener.stdout is not None
        while not zmq.select([listener.stdout], [], [], 0.02)[0]:
            publisher.publish(batch(1, ts=0.0))
        askers = [start(ASK, publisher.replay_endpoint, 0, 0.0002, TIMEOUT_MS) for _ in range(2 * beside)]
        rude = rude_client(publisher) if beside else None
        for _ in range(min(LIVE, options.batches)):
            publisher.publish(batch(100, ts=time.monotonic()))
            time.sleep(0.002)
        publisher.publish(batch(1))
        late = result_of(listener)
        assert len(late) == min(LIVE, options.batches), "live batches were lost"
        case = "3 replay clients, one reads nothing" if beside else "no replays"
        p99 = Row("a batch on its way, 99th percentile", case, "ms", float(np.quantile(late, 0.99)))
        yield p99.stay_below(5) if beside else p99
        yield Row("a batch on its way, longest", case, "ms", max(late))
        for asker in askers:
            asker.kill()
            asker.wait()
        if rude is not None:
            rude.close()
    publisher.shutdown()


def stored(form: Any, blocks: int) -> KVEventBatch:
    """A batch of one event with all fields that an array has, as an array or a map."""
    tokens, hashes = ids_of(16 * blocks), [2**63 + block for block in range(blocks)]
    event = form.BlockStored(hashes, 2**63, tokens, 16, 1, "GPU", "a", [("a",)] * blocks, 0, "sliding_window", 1024)
    batch: KVEventBatch = form.KVEventBatch(ts=0.0, events=[event])
    return batch


def formats(options: argparse.Namespace) -> Iterator[Row]:
    """What the sender's thread takes to encode a batch whose events are maps, beside one whose events are arrays."""
    encode = MessageEncoder(0)
    for blocks in (1, 94):
        batches = [stored(maps, blocks), stored(messages, blocks)]
        (as_map,), (as_array,) = (msgspec.msgpack.decode(encode(0, each)[1])[1] for each in batches)
        assert list(as_map.values()) == as_array, "a map says something else"
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(10 * options.rounds):
            for each, taken in zip(batches, times, strict=True):
                begun = time.perf_counter()
                for number in range(1000):
                    encode(number, each)
                taken.append((time.perf_counter() - begun) * 1e3)
        yield compared("encode a batch of maps", f"{blocks} blocks of 16 stored", "us", *times, "as arrays")


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    yield from formats(options)
    yield from calls(options)
    yield from delays(options)
    yield from replays(options)


def main() -> int:
    """Check, measure, print, save."""
    parser = benchmark_options(__doc__, rounds=3)
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--wait", type=float, default=3.0, help="seconds before a slow client reads")
    options = parser.parse_args()
    return finish("publisher", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
