"""The XFeat network in cv2.dnn: descriptors, keypoint heatmap and reliability of an image."""
from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

MODEL = Path(__file__).with_name('xfeat.onnx')
SHA256 = '94aa0402ff7000411718f9dc178bbb7150b6da6a91c89af6e8ca4806cb54f6dd'
CELL_PX = 8
SIDE_PX = 32

FloatMap = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """The network's output, per cell of 8x8 px.

    descriptors: (h, w, 64), unit length. heat: (8 h, 8 w) keypoint probability per px.
    reliability: (h, w).
    """

    descriptors: FloatMap
    heat: FloatMap
    reliability: FloatMap


class Backbone:
    """XFeat (Potje et al., CVPR 2024) in cv2.dnn, one network per calling thread.

    Raises RuntimeError if the model is not the right one, or if this OpenCV computes it wrong.
    """

    def __init__(self, model: Path = MODEL) -> None:
        self._weights = np.frombuffer(read_model(model, SHA256), np.uint8)
        self._local = threading.local()
        check_golden_output(lambda image: self(image).descriptors, GOLDEN_DESCRIPTORS,
                            MAX_DESCRIPTOR_ERROR)

    def __call__(self, image: npt.NDArray[np.uint8]) -> NetworkOutput:
        """Run on an RGB image (h, w, 3) whose sides are multiples of 32."""
        require_sides(image)
        if not hasattr(self._local, 'net'):
            self._local.net = cv2.dnn.readNetFromONNX(self._weights)
        self._local.net.setInput(cv2.dnn.blobFromImage(image, 1 / 255))
        descriptors, logits, reliability = self._local.net.forward(['desc', 'kpt', 'rel'])
        return NetworkOutput(np.ascontiguousarray(descriptors[0].transpose(1, 2, 0)),
                             _decode_heatmap(logits[0]), reliability[0, 0].copy())


def read_model(path: Path, sha256: str) -> bytes:
    """Read a model file; raises FileNotFoundError, or RuntimeError if it is cut or another one."""
    if not path.is_file():
        raise FileNotFoundError(f'the model {path} is missing: install the package again')
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise RuntimeError(f'the model {path} is cut or of another version ({len(content)} bytes, '
                           f'SHA-256 {found[:12]}, not {sha256[:12]}): install the package again')
    return content


def require_sides(image: npt.NDArray[np.uint8]) -> None:
    """Raise ValueError unless the sides of an image are multiples of 32 px."""
    height, width = image.shape[:2]
    if height % SIDE_PX or width % SIDE_PX:
        raise ValueError(f'sides must be multiples of {SIDE_PX} px, got {width}x{height}')


def _decode_heatmap(logits: FloatMap) -> FloatMap:
    """Decode the 64 + 1 keypoint logits of each cell to its 8x8 px; the last means no keypoint."""
    odds = np.exp(logits - logits.max(axis=0))
    odds = odds[:64] / odds.sum(axis=0)
    height, width = odds.shape[1:]
    cells = odds.reshape(CELL_PX, CELL_PX, height, width).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(cells.reshape(height * CELL_PX, width * CELL_PX))


def golden_input() -> npt.NDArray[np.uint8]:
    """Return the image of the golden output, (96, 128, 3)."""
    y, x = np.mgrid[:96, :128]
    squares = ((x // 13 + y // 11) % 3) * 70
    return np.stack([squares + x // 4, squares + y // 3, (x * y) % 97], axis=-1).astype(np.uint8)


# The first descriptor channels of two cells of `golden_input()`: of OpenCV 4.14, equal to
# onnxruntime's to 1e-6.
GOLDEN_CELLS = ((5, 7), (9, 3))
GOLDEN_DESCRIPTORS = (
    (0.1870, 0.0249, -0.0058, -0.0369, 0.0132, -0.1100, -0.1425, -0.0346),
    (0.2534, 0.0251, 0.1390, -0.1817, 0.0565, -0.0579, -0.1284, -0.1559))
MAX_DESCRIPTOR_ERROR = 5e-3


def check_golden_output(describe: Callable[[npt.NDArray[np.uint8]], FloatMap],
                        golden: tuple[tuple[float, ...], ...], max_error: float) -> None:
    """Raise RuntimeError if this OpenCV computes a network wrong, as 4.8 does with some models.

    golden: the first channels of `GOLDEN_CELLS`. Errors show with two or more threads, so their
    number is left as it is.
    """
    descriptors = describe(golden_input())
    found = np.stack([descriptors[cell][:len(golden[0])] for cell in GOLDEN_CELLS])
    error = float(np.abs(found - np.array(golden)).max())
    if not error < max_error:
        raise RuntimeError(
            f'OpenCV {cv2.__version__} computes the matching network wrong: a known descriptor is '
            f'off by {error:.2g} (limit {max_error}) with {cv2.getNumThreads()} '
            'thread(s); install another OpenCV (4.5.4 or newer, not 4.8), or set '
            'OPENCV_FOR_THREADS_NUM=1')
