"""KV events over ZeroMQ: the threads, queues and sockets that `kvgpu.publishing.publisher` uses."""
