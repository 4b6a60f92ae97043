"""SIGINT and SIGTERM as a wish to end, so that a process can end in order."""
from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

IMPATIENCE_S = 1.0


def wait_for_signal(wake: Callable[[], object]) -> threading.Event:
    """Return an event that is set, and `wake` called, by the first signal to end.

    Another one, more than a second later, ends the process on the spot, whatever hangs. (Ctrl-C
    under `ros2 launch` comes twice at once: from the terminal and from launch.) Python's own
    handlers would run only when the executor next returns from the middleware; the wake-up file
    tells at once.
    """
    asked, (read_end, write_end) = threading.Event(), os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)

    def wait() -> None:
        os.read(read_end, 1)
        asked.set()
        wake()
        asked_s = time.monotonic()
        while True:
            number = os.read(read_end, 1)[0]
            if time.monotonic() - asked_s > IMPATIENCE_S:
                os._exit(128 + number)

    threading.Thread(target=wait, name='signals', daemon=True).start()
    return asked
