"""A checkpoint through a server answers as in the engine: the same points, confidence, refusals."""
from __future__ import annotations

import base64
import threading

import copy_qwen
import cv2
import numpy as np
import pytest
import torch
from copy_qwen import view
from openai_server import MODEL, FakeOpenAIServer, ServerBehaviour
from reference_decoder import ReferenceDecoder

from crosspoint_ros.core.datatypes import Code, Match, Query, Rejected
from crosspoint_ros.matchers import load_matcher

torch.set_num_threads(1)
MAX_PIXELS = 16 * 28 * 28  # the model was taught with images of 16 tokens at most
HERE = {'max_pixels': MAX_PIXELS, 'coordinates': 'relative_1000', 'self_test': False}


class ServedModel:
    """The next token of a checkpoint by full passes of plain transformers, as a server's model."""

    def __init__(self, model, tokenizer) -> None:
        self.reference = ReferenceDecoder(model, tokenizer, MAX_PIXELS)
        self._tokenizer, self._lock = tokenizer, threading.Lock()
        self._texts = [tokenizer.decode([token], skip_special_tokens=True)  # '' for the end
                       for token in range(model.config.get_text_config().vocab_size)]

    def write(self, reply: str, request: dict) -> dict[str, float]:
        *images, question = request['messages'][1]['content']
        if not images:  # the handshake
            return {'': 1.0} if reply else {'7': 1.0}
        with self._lock:
            scores = self.reference.compute_logits(
                [self._decode(image['image_url']['url']) for image in images], question['text'],
                self._tokenizer.encode(reply, add_special_tokens=False))
        following: dict[str, float] = {}
        for text, p in zip(self._texts, torch.softmax(scores.double(), -1).tolist(), strict=False):
            following[text] = following.get(text, 0.0) + p
        return following

    @staticmethod
    def _decode(url: str) -> np.ndarray:
        data = np.frombuffer(base64.b64decode(url.partition(',')[2]), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy()


@pytest.fixture(scope='module', params=[False, True], ids=['answers', 'hides'])
def hides(request):
    return request.param


@pytest.fixture(scope='module')
def both(hides, tmp_path_factory):
    """The checkpoint in the engine, and the same through a server like vLLM."""
    folder = copy_qwen.build(tmp_path_factory.mktemp('taught'), hides=hides)
    local = load_matcher('cropond', model=str(folder), device='cpu', **HERE)
    served = ServedModel(local.checkpoint.model, local.checkpoint.tokenizer)
    server = FakeOpenAIServer(ServerBehaviour(writes=served.write))
    yield local, load_matcher('cropond_remote', url=server.url, model=MODEL, server='vllm',
                              deadline_s=120.0, **HERE)
    server.stop()


def outcome(matcher, query: Query) -> Match | Rejected:
    try:
        return matcher.match(query)
    except Rejected as rejected:
        return rejected


def test_points_and_confidence_through_a_server_are_the_engines(both):
    local, remote = both
    found = 0
    for seed, (x, y) in enumerate([(120, 60), (99.8, 75), (140, 120), (180, 31), (101, 30),
                                    (62, 40), (64, 90)]):
        query = Query(view('a', seed), view('b', seed + 10), np.array([x, y], float))
        ours, theirs = outcome(local, query), outcome(remote, query)
        assert type(ours) is type(theirs), (ours, theirs)
        if isinstance(ours, Match):
            found += 1
            np.testing.assert_allclose(theirs.pixel, ours.pixel, atol=0.5)
            assert theirs.confidence == pytest.approx(ours.confidence, abs=0.02)
    assert found >= 4


def test_what_the_checkpoint_hides_is_hidden_through_the_server_too(both, hides):
    local, remote = both
    refused = 0
    for seed in range(6):
        x = 24.0 + 5 * seed  # in the left third
        query = Query(view('a', seed), view('b', seed + 10), np.array([x, 40.0 + 10 * seed]))
        ours, theirs = outcome(local, query), outcome(remote, query)
        for answer in (ours, theirs):
            if isinstance(answer, Rejected):
                assert answer.code == Code.NOT_VISIBLE
                assert repr(copy_qwen.UNSEEN) in answer.message  # the whole sentence, not cut
                refused += 1
    assert refused == (12 if hides else 0)
