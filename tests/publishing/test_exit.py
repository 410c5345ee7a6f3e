"""What was published is sent although nobody calls `shutdown`, and a forked child sends nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import zmq
from support.event_clients import Clients, live_until

import kvgpu

ROOT = Path(kvgpu.__file__).resolve().parent.parent
COUNT = 5000

BEGIN = f"""
COUNT = {COUNT}
import atexit, multiprocessing, os, sys, threading
from kvgpu.events.messages import AllBlocksCleared, KVEventBatch
from kvgpu.publishing.publisher import ZmqEventPublisher

def batch(ts):
    return KVEventBatch(ts=ts, events=[AllBlocksCleared()])

def publish_all(publisher):
    for ts in range(COUNT):
        publisher.publish(batch(float(ts)))

def wait_for_subscriber(publisher):
    seen = threading.Thread(target=sys.stdin.readline)
    seen.start()
    while seen.is_alive():
        publisher.publish(batch(-2.0))
        seen.join(0.02)

publisher = ZmqEventPublisher(endpoint=sys.argv[1])
wait_for_subscriber(publisher)
"""

ENDS = {
    "at its end": "publish_all(publisher)",
    "by sys.exit": "publish_all(publisher); sys.exit(0)",
    "by an error": "publish_all(publisher); 1 / 0",
    "while a thread publishes": "threading.Thread(target=publish_all, args=(publisher,)).start()",
    "in an exit function": "atexit.register(publish_all, publisher)",
    "without the publisher": "publish_all(publisher); del publisher",
}


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/events"


@pytest.fixture
def subscriber(endpoint):
    clients = Clients()
    yield clients(zmq.SUB, endpoint)
    clients.close()


def run(code, subscriber, endpoint, begin=BEGIN):
    """Run a process until its end; returns its status and what it said."""
    with subprocess.Popen(
        [sys.executable, "-c", begin + code, endpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    ) as process:
        assert subscriber.poll(60_000), process.kill()
        try:
            said, _ = process.communicate("seen\n", timeout=60)
        finally:
            process.kill()  # or a process that hangs would be waited for
    return process.returncode, said


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends_sends_all_it_has_published(end, subscriber, endpoint):
    status, said = run(ENDS[end], subscriber, endpoint)
    assert (status == 0) == (end != "by an error"), said
    assert [ts for _, ts in live_until(subscriber, COUNT - 1.0)] == list(range(COUNT))


def test_a_child_of_multiprocessing_sends_all_it_has_published(subscriber, endpoint):
    code = """
def child(endpoint, ready):
    publisher = ZmqEventPublisher(endpoint=endpoint)
    while not ready.wait(0.02):
        publisher.publish(batch(-2.0))
    publish_all(publisher)

fork = multiprocessing.get_context("fork")
ready = fork.Event()
process = fork.Process(target=child, args=(sys.argv[1], ready))
process.start()
sys.stdin.readline()
ready.set()
process.join()
sys.exit(process.exitcode)
"""
    begin = BEGIN.partition("publisher = ")[0]
    status, said = run(code, subscriber, endpoint, begin)
    assert status == 0, said
    assert [ts for _, ts in live_until(subscriber, COUNT - 1.0)] == list(range(COUNT))


@pytest.mark.parametrize("end", ["os._exit(0)", "publisher.shutdown(); os._exit(0)", "sys.exit(0)"])
def test_a_forked_child_sends_nothing_and_its_parent_goes_on(end, subscriber, endpoint):
    code = f"""
pid = os.fork()
if pid == 0:
    for _ in range(10):
        publisher.publish(batch(-9.0))
    print("dropped", publisher.num_dropped, flush=True)
    {end}
assert os.waitpid(pid, 0)[1] == 0
publish_all(publisher)
"""
    status, said = run(code, subscriber, endpoint)
    assert status == 0, said
    assert "dropped 10\n" in said
    assert [ts for _, ts in live_until(subscriber, COUNT - 1.0)] == list(range(COUNT))


def test_a_child_forked_while_another_thread_publishes_is_not_locked(subscriber, endpoint):
    # Nothing is logged: a thread that writes to stderr during a fork leaves Python's own lock of that file locked.
    code = """
import logging
logging.disable()
def publish():
    while True:
        publisher.publish(batch(-2.0))
threads = [threading.Thread(target=publish) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        publisher.publish(batch(-9.0))
        publisher.shutdown()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
os._exit(0)
"""
    status, said = run(code, subscriber, endpoint)
    assert status == 0, said
