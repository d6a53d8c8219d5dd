"""Work beside work: what a loop needs is made ahead of it, what it leaves is finished behind it.

Both in threads, both in order: an accelerator computes while the host prepares the next batch and writes the
last one. On a processor, whose cores are at work anyhow, nothing is gained, and a batch is on disk before the
next one begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
_END: Any = object()
DEPTH = 2  # how far ahead, and how far behind: each holds one batch more in memory


def depth_on(device: torch.device) -> int:
    """How far to work ahead and behind for this device."""
    return DEPTH if device.type == "cuda" else 0


def ahead(items: Iterable[Item], depth: int = DEPTH) -> Iterator[Item]:
    """The same items in the same order, up to ``depth`` of them made before they are asked for.

    An error is raised where its item would have come.
    """
    source = iter(items)
    if not depth:
        yield from source
        return
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting = deque(thread.submit(next, source, _END) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, source, _END))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


class Behind:
    """Calls made one after the other in a thread, in the order in which they are given.

    At most ``depth`` are waited with. After one that fails no other is made; its error is raised by the next
    :meth:`do`, or at the end of the block.

    Example:
        >>> done = []
        >>> with Behind() as behind:
        ...     behind.do(done.append, 1)
        ...     behind.do(done.append, 2)
        >>> done
        [1, 2]
    """

    def __init__(self, depth: int = DEPTH) -> None:
        self.depth, self.failed = depth, False
        self.waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Behind:
        self.thread = ThreadPoolExecutor(1, "behind")
        return self

    def do(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Make a call when those before it are done; at once with no depth."""
        if not self.depth:
            call(*arguments)
            return
        while len(self.waiting) >= self.depth:
            self.waiting.popleft().result()
        self.waiting.append(self.thread.submit(self._call, call, *arguments))

    def _call(self, call: Callable[..., Any], *arguments: Any) -> None:
        if self.failed:  # what comes after may rest on what was not done
            return
        try:
            call(*arguments)
        except BaseException:
            self.failed = True
            raise

    def __exit__(self, kind: type[BaseException] | None, _: Any, __: TracebackType | None) -> None:
        self.thread.shutdown()
        if kind is None:
            while self.waiting:
                self.waiting.popleft().result()


class Stream:
    """Where the device works on what a batch left, while the next one runs.

    On a processor it is nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = torch.cuda.Stream(device) if device.type == "cuda" else None

    def after_now(self, call: Callable[..., Item], *tensors: Any) -> Callable[[], Item]:
        """A call to be made later, in another thread: it begins when all that is queued now is done.

        Args:
            call: gets the tensors, and returns what is on the host.
            tensors: on the device; or ``None``.
        """
        if self.cuda is None:
            return lambda: call(*tensors)
        stream, ready = self.cuda, torch.cuda.Event()
        ready.record(torch.cuda.current_stream(stream.device))

        def later() -> Item:
            with torch.cuda.stream(stream):
                stream.wait_event(ready)
                for tensor in tensors:
                    if tensor is not None:  # its memory is not another's before this stream has read it
                        tensor.record_stream(stream)
                return call(*tensors)

        return later
