"""What closing a channel takes, whatever ZeroMQ does."""

import logging
from threading import Event
from types import SimpleNamespace

import zmq

from kvgpu.publishing import channel as channels
from kvgpu.publishing.channel import Channel


def test_a_closed_channel_has_freed_its_port(tmp_path):
    endpoint = f"ipc://{tmp_path}/events"
    for _ in range(3):
        Channel(zmq.PUB, endpoint, 0, {}).close()


def test_a_context_that_never_ends_is_left_to_itself_with_a_warning(tmp_path, monkeypatch, caplog):
    channel, released = Channel(zmq.PUB, f"ipc://{tmp_path}/events", 0, {}), Event()
    monkeypatch.setattr(channels, "PATIENCE_S", 0.01)
    context, channel._context = channel._context, SimpleNamespace(term=released.wait)
    with caplog.at_level(logging.WARNING):
        channel.close(0)
    assert "has not ended" in caplog.text
    released.set()
    context.term()
