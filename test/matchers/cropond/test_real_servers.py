"""The matcher on real servers; only where they are at hand.

CROSSPOINT_SERVE_PYTHON names a Python that has transformers[serving] with torch and torchvision of
the same build (a torchvision for CUDA beside a torch for the CPU ends it at once); this one needs
torch and transformers too, to teach the tiny model that is served. Teaching may take longer than
a test otherwise may: pytest -o faulthandler_timeout=400 test/test_cropond_serve.py
CROSSPOINT_SERVER_URL names any running server of a Qwen2.5-VL (vLLM), CROSSPOINT_SERVER_ABLE what
it must be found able to do ('structured_outputs, prefill, logprobs'), and
CROSSPOINT_SERVER_MAX_PIXELS the size of images that its model copes with.
"""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('PIL')
try:
    from crosspoint_ros.matchers.cropond.remote import CropondRemoteMatcher
except ImportError as missing:
    pytest.skip(str(missing), allow_module_level=True)
from crosspoint_ros.core.datatypes import Code, Intrinsics, Query, Rejected, View
from crosspoint_ros.core.verify import validate_match
from crosspoint_ros.matchers.cropond import self_test

SERVE_PYTHON = os.environ.get('CROSSPOINT_SERVE_PYTHON', '')
SERVER_URL = os.environ.get('CROSSPOINT_SERVER_URL', '')
SMALL = 16 * 28 * 28  # the model that copies was taught with images of 16 tokens at most
STARTS_WITHIN_S = 120.0
needs_serve = pytest.mark.skipif(not SERVE_PYTHON, reason='CROSSPOINT_SERVE_PYTHON is not set')
needs_server = pytest.mark.skipif(not SERVER_URL, reason='CROSSPOINT_SERVER_URL is not set')


class Serve:
    """`transformers serve` on a checkpoint, which can be killed and started again."""

    def __init__(self, checkpoint: Path) -> None:
        with socket.create_server(('127.0.0.1', 0)) as probe:
            self.port = probe.getsockname()[1]
        self.checkpoint, self.url = checkpoint, f'http://127.0.0.1:{self.port}'
        self.start()

    def start(self) -> None:
        program = Path(SERVE_PYTHON).parent / 'transformers'
        self.process = subprocess.Popen(
            [program, 'serve', self.checkpoint, '--device', 'cpu', '--dtype', 'float32', '--port',
             str(self.port)], env={**os.environ, 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': '',
                                   'OMP_NUM_THREADS': '1'},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end_s = time.monotonic() + STARTS_WITHIN_S
        while not self.is_up():
            assert self.process.poll() is None, 'transformers serve ended at once'
            assert time.monotonic() < end_s, 'transformers serve did not start'
            time.sleep(0.5)

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f'{self.url}/health', timeout=2) as reply:
                return reply.status == 200
        except OSError:
            return False

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    torch = pytest.importorskip('torch')
    pytest.importorskip('transformers')
    torch.set_num_threads(1)
    import copy_qwen
    return copy_qwen.build(tmp_path_factory.mktemp('served'))


@pytest.fixture(scope='module')
def serve(checkpoint):
    serve = Serve(checkpoint)
    yield serve
    serve.kill()


def query(pixel: tuple[float, float]) -> Query:
    """A click on two views that show the same."""
    image = cv2.resize(self_test.draw_test_image(), (640, 480))
    intrinsics = Intrinsics(600.0, 600.0, 320.0, 240.0, 640, 480)
    return Query(View('a', image, intrinsics), View('b', image.copy(), intrinsics), np.array(pixel))


def asked_of(serve: Serve, **options) -> CropondRemoteMatcher:
    return CropondRemoteMatcher(**{'url': serve.url, 'model': str(serve.checkpoint),
                                   'max_pixels': SMALL, 'deadline_s': 10.0,
                                   'allow_repeating': True, **options})


@needs_serve
def test_transformers_serve_passes_the_self_test_and_answers_clicks(serve):
    asked = asked_of(serve, confidence_unknown=0.6)
    assert asked.describe()['coordinates'] == 'relative_1000'
    assert asked.describe()['asked by'] == 'free text'
    for pixel in ((320.0, 240.0), (400.0, 301.0), (77.0, 99.0)):
        np.testing.assert_allclose(asked.match(query(pixel)).pixel, pixel, atol=1.0)
    np.testing.assert_allclose(asked.ground(query((1, 1)).clicked, 'the drawer handle').pixel,
                               (320, 240), atol=1.0)


@needs_serve
def test_killing_transformers_serve_amid_a_click_refuses_it_and_a_new_one_answers(serve):
    asked = asked_of(serve)
    serve.freeze()
    killer = threading.Timer(1.0, serve.kill)
    killer.start()
    begun_s = time.monotonic()
    with pytest.raises(Rejected) as caught:
        asked.match(query((320.0, 240.0)))
    assert time.monotonic() - begun_s < asked.options.deadline_s + 1
    assert caught.value.code in (Code.MATCHER_FAILED, Code.TIMEOUT)
    killer.join()
    with pytest.raises(Rejected, match='is the server running'):
        asked.match(query((320.0, 240.0)))
    serve.start()
    np.testing.assert_allclose(asked.match(query((400.0, 300.0))).pixel, (400, 300), atol=1.0)


@needs_serve
def test_a_frozen_transformers_serve_is_a_timeout_within_the_deadline(serve):
    asked = asked_of(serve, self_test=False, coordinates='relative_1000', deadline_s=1.0)
    serve.freeze()
    begun_s = time.monotonic()
    with pytest.raises(Rejected) as caught:
        asked.match(query((320.0, 240.0)))
    took_s = time.monotonic() - begun_s
    os.kill(serve.process.pid, signal.SIGCONT)
    assert caught.value.code == Code.TIMEOUT
    assert took_s < 3


@needs_server
def test_a_running_server_can_do_what_is_said_of_it_and_answers_clicks():
    asked = CropondRemoteMatcher(
        url=SERVER_URL, self_test=False, coordinates='relative_1000', deadline_s=60.0,
        max_pixels=int(os.environ.get('CROSSPOINT_SERVER_MAX_PIXELS', '602112')))
    able = asked.describe()['asked by']
    print(asked.describe(), file=sys.stderr)
    assert able == os.environ.get('CROSSPOINT_SERVER_ABLE', able)
    first, again = (asked.match(query((320.0, 240.0))) for _ in range(2))
    validate_match(first, asked)
    np.testing.assert_allclose(first.pixel, again.pixel, atol=1.0)
