"""Claims about running the network."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.matchers.xfeat import network as network_module
from crosspoint_ros.matchers.xfeat.network import (
    GOLDEN_DESCRIPTORS,
    MAX_DESCRIPTOR_ERROR,
    MODEL,
    Backbone,
    check_golden_output,
    golden_input,
)


@pytest.fixture(scope='module')
def network() -> Backbone:
    return Backbone()


def test_descriptors_have_unit_length_and_heat_covers_every_pixel(network):
    response = network(golden_input())
    assert response.descriptors.shape == (12, 16, 64)
    assert response.heat.shape == (96, 128)
    assert np.linalg.norm(response.descriptors, axis=-1) == pytest.approx(np.ones((12, 16)), 1e-4)


def test_a_wrongly_computed_network_is_refused_with_the_version(network, monkeypatch):
    """A double stands for OpenCV 4.8, whose descriptors agree to 0.5 with the right ones."""
    monkeypatch.setattr(network_module.cv2, '__version__', '4.8.0')

    def wrong(image):
        return np.roll(network(image).descriptors, 1, axis=-1)

    with pytest.raises(RuntimeError, match=r'OpenCV 4\.8\.0 computes .*limit 0\.005'):
        check_golden_output(wrong, GOLDEN_DESCRIPTORS, MAX_DESCRIPTOR_ERROR)


def test_a_side_that_is_no_multiple_of_32_is_refused(network):
    with pytest.raises(ValueError, match='multiples of 32 px, got 100x96'):
        network(np.zeros((96, 100, 3), np.uint8))


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone\.onnx'):
        Backbone(tmp_path / 'gone.onnx')


def test_a_cut_model_is_named(tmp_path):
    cut = tmp_path / 'xfeat.onnx'
    cut.write_bytes(MODEL.read_bytes()[:-1000])
    with pytest.raises(RuntimeError, match=r'xfeat\.onnx is cut or of another version'):
        Backbone(cut)
