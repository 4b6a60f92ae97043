"""Runs one function over many arguments: in this process, in several, or on a Ray cluster."""
from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from crosspoint_ros.data.io import PACKAGE_LOG, RecordCollector

CONNECT_TIMEOUT_S = 5.0
Result = TypeVar('Result')
Logged = tuple[Result, list[logging.LogRecord]]  # a result, and what was logged meanwhile
progress_bar = partial(tqdm, disable=None, delay=2, leave=False)  # on a terminal, after 2 s


class Pool(Protocol):
    """Runs a function over arguments and returns the results in the same order."""

    def __call__(self, work: Callable[..., Result], items: list[tuple[Any, ...]],
                 get_scene: Callable[[tuple[Any, ...]], object], title: str) -> list[Result]:
        """get_scene: the key of arguments that one process should run in succession."""


@contextmanager
def process_pool(processes: int) -> Iterator[Pool]:
    """Provide a pool of at most one process a core; a pool of one is this process."""
    # More processes than cores would read every view more often without being faster.
    processes = min(processes, len(os.sched_getaffinity(0)))
    if processes == 1:
        yield lambda work, items, get_scene, title: [
            work(*item) for item in progress_bar(items, desc=title)]
        return
    # The server process imports everything once; the workers are forked from it.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['crosspoint_ros.data.qa.frame_builder'])
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_exit_with_parent) as pool:
        yield lambda work, items, get_scene, title: [
            _log_here(future.result()) for future in progress_bar(
                [pool.submit(_collect_logs, work, item) for item in items], desc=title)]


def _exit_with_parent() -> None:
    """Exit when the parent does: a worker is not notified when its parent is killed."""
    process = multiprocessing.parent_process()
    assert process is not None

    def wait() -> None:
        process.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _collect_logs(work: Callable[..., Result], item: tuple[Any, ...]) -> Logged[Result]:
    """Run in a worker: return the log records with the result."""
    collector = RecordCollector(sys.maxsize)
    PACKAGE_LOG.addHandler(collector)
    try:
        return work(*item), collector.buffer
    finally:
        PACKAGE_LOG.removeHandler(collector)


def _log_here(logged: Logged[Result]) -> Result:
    """Handle in this process what a worker logged."""
    for record in logged[1]:
        PACKAGE_LOG.handle(record)
    return logged[0]


@contextmanager
def ray_pool(address: str) -> Iterator[Pool]:
    """Provide a pool on a Ray cluster, one task a scene; '' starts a cluster on this machine.

    The recordings and the data set must be at the same path on every node. Raises ValueError
    if Ray is not installed, OSError if the address does not respond.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ValueError(f'--ray needs {error.name}: pip install "ray[data]"') from error
    _check_reachable(address)
    logging.getLogger('ray.data').setLevel(logging.WARNING)
    ray.init(address=address or 'local', logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield _run_by_scene
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError if HOST:PORT refuses a connection: Ray itself would retry for minutes."""
    host, _, port = address.removeprefix('ray://').rpartition(':')
    if not port.isdigit():  # '' and 'auto' have no port
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise OSError(f'there is no Ray cluster at {address}: {error}') from error


def _run_by_scene(work: Callable[..., Result], items: list[tuple[Any, ...]],
                  get_scene: Callable[[tuple[Any, ...]], object], title: str) -> list[Result]:
    import ray.data
    numbered = [(get_scene(item), index, item) for index, item in enumerate(items)]
    # Pickled here: Arrow would convert the arguments to tables.
    scenes = [{'scene': pickle.dumps((work, [each[1:] for each in own]))}
              for _, own in groupby(numbered, key=itemgetter(0))]
    if not scenes:
        return []
    rows = ray.data.from_items(scenes, override_num_blocks=len(scenes)).map(_run_scene).take_all()
    done = {index: logged for row in rows for index, logged in pickle.loads(row['done'])}
    return [_log_here(done[index]) for index in range(len(items))]


def _run_scene(row: dict[str, bytes]) -> dict[str, bytes]:
    work, numbered = pickle.loads(row['scene'])
    return {'done': pickle.dumps([(index, _collect_logs(work, item)) for index, item in numbered])}
