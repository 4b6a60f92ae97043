"""Claims about the second descriptor."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.matchers.xfeat import network as network_module
from crosspoint_ros.matchers.xfeat.aliked import MODEL, Aliked
from crosspoint_ros.matchers.xfeat.network import golden_input

# ALIKED at one cell of the golden input, x 10,000, computed with exact interpolation of a feature
# map of full resolution.
GOLDEN_CELL = (9, 3)
FULL_DESCRIPTOR = np.array((
    895, -499, 41, 163, -613, -64, -1310, -768, -463, 852, 1172, -1075, -478, -122, 800, 215,
    -500, 141, -802, 611, 1445, 560, -458, 1123, 44, -1037, 1600, -802, 69, 1450, -794, 1013,
    -266, 705, -1844, 1276, 1310, 1350, -1259, 446, -561, -510, -1558, -1576, 610, -1799, 309,
    -1035, 1138, 640, -1028, -1297, -278, -1134, 1175, -931, 301, 610, -1020, 1768, -129, -403,
    -401, -133, 198, 1275, 59, 780, -362, 917, -499, -936, 931, -442, -95, 414, 343, -361, -1116,
    1004, 1363, 101, -1431, 766, -873, -200, -85, 803, -254, 1014, 344, 790, -1649, -332, 828,
    -84, 25, -704, -1442, 1404, -79, -844, -425, -749, -630, 1371, -246, -1017, 518, -331, -661,
    230, 576, 1647, -1303, 3, 1700, -375, -799, 114, -98, -1581, -698, -566, 1273, 817, -838,
    -95)) / 1e4


@pytest.fixture(scope='module')
def aliked() -> Aliked:
    return Aliked()


def test_a_descriptor_is_that_of_the_full_computation(aliked):
    found = aliked(golden_input())[GOLDEN_CELL]
    assert found @ FULL_DESCRIPTOR > 0.999
    assert found == pytest.approx(FULL_DESCRIPTOR, abs=0.01)


@pytest.mark.parametrize('size', [(32, 32), (64, 160), (352, 480)])
def test_any_size_gives_unit_descriptors_of_its_cells(aliked, size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = aliked(noise)
    assert found.shape == (size[0] // 8, size[1] // 8, 128)
    assert np.linalg.norm(found, axis=-1) == pytest.approx(np.ones(found.shape[:2]), abs=1e-4)


def test_a_grey_image_gives_finite_descriptors(aliked):
    assert np.isfinite(aliked(np.full((64, 64, 3), 127, np.uint8))).all()


def test_a_side_that_is_no_multiple_of_32_is_refused(aliked):
    with pytest.raises(ValueError, match='multiples of 32 px, got 100x96'):
        aliked(np.zeros((96, 100, 3), np.uint8))


@pytest.mark.parametrize('change', [lambda model: model[:-1000], lambda model: b'',
                                    lambda model: model[:500] + b'?' + model[501:]])
def test_a_cut_or_another_model_is_named(tmp_path, change):
    path = tmp_path / 'aliked.npz'
    path.write_bytes(change(MODEL.read_bytes()))
    with pytest.raises(RuntimeError, match=r'aliked\.npz is cut or of another version'):
        Aliked(path)


class WrongNet:
    """A double of a network in an OpenCV that returns the channels in another order."""

    def __init__(self, net):
        self.setInput, self._net = net.setInput, net

    def forward(self, names):
        return [np.roll(output, 1, axis=1) for output in self._net.forward(names)]


def test_an_opencv_that_computes_it_wrong_is_refused_with_its_version(monkeypatch):
    read = network_module.cv2.dnn.readNetFromONNX
    monkeypatch.setattr(network_module.cv2.dnn, 'readNetFromONNX',
                        lambda weights: WrongNet(read(weights)))
    monkeypatch.setattr(network_module.cv2, '__version__', '4.8.0')
    with pytest.raises(RuntimeError, match=r'OpenCV 4\.8\.0 computes .*limit 0\.01'):
        Aliked()
