"""Graceful shutdown on SIGINT and SIGTERM; ROS nodes as child processes."""
from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

FORCE_QUIT_AFTER_S = 1.0


SIGNAL_THREAD = 'signals'


def catch_shutdown_signals(wake: Callable[[], object]) -> threading.Event:
    """Return an event that the first SIGINT or SIGTERM sets, which also calls `wake`.

    Another signal, more than a second later, exits at once, whatever hangs. (Ctrl-C under
    `ros2 launch` comes twice: from the terminal and from launch.) Python's own handlers would run
    only when the executor next returns from the middleware; the wake-up file descriptor is
    immediate.
    """
    shutdown, (read_end, write_end) = threading.Event(), os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)

    def wait() -> None:
        os.read(read_end, 1)
        shutdown.set()
        wake()
        first_s = time.monotonic()
        while True:
            number = os.read(read_end, 1)[0]
            if time.monotonic() - first_s > FORCE_QUIT_AFTER_S:
                os._exit(128 + number)

    threading.Thread(target=wait, name=SIGNAL_THREAD, daemon=True).start()
    return shutdown


STOP_S = 5.0
TAIL_LINES = 15
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
TRANSPORT_VARIABLES = ('FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE',
                       'FASTRTPS_DEFAULT_PROFILES_FILE')


class ProcessExited(Exception):  # noqa: N818  (as subprocess.TimeoutExpired)
    """A process that should run has exited; with its code and last output."""


class NodeProcess:
    """A node in a child process, its output in a file.

    It has its own session, so that Ctrl-C in the terminal reaches only the parent, which
    shuts it down; the kernel ends it if the parent is killed.
    """

    def __init__(self, module: str, ros_args: list[str], log: Path,
                 environment: Mapping[str, str], arguments: Sequence[str] = ()) -> None:
        """Start `module:main` with arguments and ROS arguments; the log file's name names it."""
        self.name = log.stem
        self._log = log
        code = f'import sys; from {module} import main; sys.exit(main())'
        parent = os.getpid()
        with log.open('w') as out:
            self._process = subprocess.Popen(
                [sys.executable, '-c', code, *arguments, '--ros-args', *ros_args],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True, env=dict(environment),
                preexec_fn=lambda: _kill_with_parent(parent))

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise `ProcessExited` if it is no longer running."""
        code = self._process.poll()
        if code is None:
            return
        lines = self._log.read_text(errors='replace').splitlines()[-TAIL_LINES:]
        output = '\n'.join(f'  {line}' for line in lines) or '  (nothing)'
        raise ProcessExited(f'{self.name} exited with code {code}. Its last output ({self._log}):\n'
                            f'{output}')

    def wait_for_output(self, beginning: str, timeout_s: float) -> str:
        """Wait for a line with this beginning. Raises `ProcessExited` or TimeoutError."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            for line in self._log.read_text(errors='replace').splitlines():
                if line.startswith(beginning):
                    return line
            self.check()
            time.sleep(0.05)
        raise TimeoutError(f'{self.name} did not print {beginning!r} within {timeout_s:g} s')

    def wait(self, timeout_s: float = 20.0) -> int:
        """Wait until it ends by itself, and return its exit code."""
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """End it as Ctrl-C would, by SIGTERM and SIGKILL after 5 s each; return its exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if self._process.poll() is None:
                self._process.send_signal(number)
                try:
                    return self._process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    continue
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()


def _kill_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent ends, even by SIGKILL (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGTERM)


def find_config(name: str) -> Path:
    """Find a file of config/ in the source tree or the installation."""
    package = Path(__file__).absolute().parents[1]  # <prefix>/lib/python3.x/site-packages/<package>
    installed = package / '..' / '..' / '..' / '..' / 'share' / package.name / 'config'
    places = [package.parent / 'config', Path(os.path.normpath(installed)),
              Path(sys.prefix) / 'share' / package.name / 'config']
    for place in places:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(f'{name} is in none of {", ".join(map(str, places))}: install the '
                            'package again')


def carry_images() -> None:
    """Have Fast DDS carry images, here and in child processes, unless it is set up otherwise.

    By the profile that bringup.launch.py sets. (With LARGE_DATA a client that stays does not find
    a node that was killed and started again: its TCP sockets can deadlock.)
    """
    if not any(os.environ.get(name) for name in TRANSPORT_VARIABLES):
        is_old = os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')  # Fast DDS 2
        os.environ[TRANSPORT_VARIABLES[1 + is_old]] = str(find_config('fastdds_shm.xml'))
