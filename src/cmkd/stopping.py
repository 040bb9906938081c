"""Being asked to stop: a request that is met where nothing is cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into a request, which the context looks at when it suits.

    A second one acts as if nobody had listened.

    Yields:
        An event that is set once stopping is asked for.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested  # signals belong to the main thread
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # What the parent had ignored, as nohup and a shell's background jobs do, stays ignored.
    previous = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}

    def request(number: int, frame: object) -> None:
        requested.set()
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in previous:
        signal.signal(number, request)
    try:
        yield requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
