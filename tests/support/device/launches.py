"""Launches of kernels that run on the CPU: run at once, or noted while a CUDA graph is captured."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Graph(list[Callable[[], None]]):
    """Launches that were captured."""

    def replay(self) -> None:
        """Run them, with the values that their memory has now."""
        for launch in self:
            launch()


_capturing: list[Graph] = []
_listeners: list[list[str]] = []


def is_capturing() -> bool:
    """Whether launches are noted in place of being run."""
    return bool(_capturing)


@contextmanager
def capture(graph: Graph | None = None) -> Iterator[Graph]:
    """Note launches, in this graph or in a new one, in place of running them."""
    _capturing.append(Graph() if graph is None else graph)
    try:
        yield _capturing[-1]
    finally:
        _capturing.pop()


def listen(names: list[str]) -> Callable[[], None]:
    """Append the name of every kernel that is started to a list, until the function that is returned is called."""
    _listeners.append(names)
    return lambda: _listeners.remove(names)


def start(launch: Callable[[], None], name: str) -> None:
    """Run a launch of the kernel of this name, or note it in the graph that is being captured."""
    if _capturing:
        _capturing[-1].append(launch)
        return
    for names in _listeners:
        names.append(name)
    launch()
