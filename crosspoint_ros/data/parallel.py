"""Runs one function over many arguments: here, in several processes, or on a Ray cluster."""
from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol, TypeVar

CONNECT_TIMEOUT_S = 5.0
Result = TypeVar('Result')


class Pool(Protocol):
    """Runs a function over arguments, and returns what it returned in their order."""

    def __call__(self, work: Callable[..., Result], items: list[tuple[Any, ...]],
                 scene_of: Callable[[tuple[Any, ...]], object]) -> list[Result]:
        """scene_of: what is alike for arguments that one process should have one after another."""
        ...


@contextmanager
def process_pool(processes: int) -> Iterator[Pool]:
    """Give a pool of so many processes, or as many as there are cores; of one, it is this one.

    More processes than cores read every view more often, and are no faster for it.
    """
    processes = min(processes, len(os.sched_getaffinity(0)))
    if processes == 1:
        yield lambda work, items, scene_of: [work(*item) for item in items]
        return
    # One server process imports everything, once; the workers are forked from it.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['crosspoint_ros.data.qa.frame_builder'])
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_exit_with_parent) as pool:
        yield lambda work, items, scene_of: [
            future.result() for future in [pool.submit(work, *item) for item in items]]


def _exit_with_parent() -> None:
    """End this worker when the build is gone, which a kill does not tell it."""
    process = multiprocessing.parent_process()
    assert process is not None

    def wait() -> None:
        process.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def ray_pool(address: str) -> Iterator[Pool]:
    """Give a pool on a Ray cluster, a scene a task; '' starts one on this machine.

    The recordings and the data set must lie at the same path on every node. Raises ValueError
    where Ray is not installed, and OSError where nothing answers at the address.
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
    """Raise OSError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix('ray://').rpartition(':')
    if not port.isdigit():  # '' and 'auto' name no port
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise OSError(f'there is no Ray cluster at {address}: {error}') from error


def _run_by_scene(work: Callable[..., Result], items: list[tuple[Any, ...]],
              scene_of: Callable[[tuple[Any, ...]], object]) -> list[Result]:
    import ray.data
    numbered = [(scene_of(item), index, item) for index, item in enumerate(items)]
    # Pickled by us: Arrow would look for tables in what it is given.
    scenes = [{'scene': pickle.dumps((work, [each[1:] for each in own]))}
              for _, own in groupby(numbered, key=itemgetter(0))]
    if not scenes:
        return []
    rows = ray.data.from_items(scenes, override_num_blocks=len(scenes)).map(_run_scene).take_all()
    done = {index: result for row in rows for index, result in pickle.loads(row['done'])}
    return [done[index] for index in range(len(items))]


def _run_scene(row: dict[str, bytes]) -> dict[str, bytes]:
    work, numbered = pickle.loads(row['scene'])
    return {'done': pickle.dumps([(index, work(*item)) for index, item in numbered])}
