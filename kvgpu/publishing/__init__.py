"""KV events over ZeroMQ: the threads, queues and sockets behind `kvgpu.publishing.publisher`."""
