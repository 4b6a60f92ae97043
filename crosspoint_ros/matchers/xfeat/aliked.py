"""ALIKED, a second descriptor trained independently of XFeat: cv2.dnn, cv2.remap and NumPy."""
from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.matchers.xfeat.features import normalize, sample, split_channels
from crosspoint_ros.matchers.xfeat.network import (
    CELL_PX,
    FloatMap,
    check_golden_output,
    read_model,
    require_sides,
)

MODEL = Path(__file__).with_name('aliked.npz')
SHA256 = '9a0eea1a1018e5363309b26bbf9b4b305a1b70c355a37d8148d0c6e2c75174d3'
CHUNK = 256  # descriptors at a time, so that what they gather fits the processor's cache
SELU_SCALE, SELU_ALPHA = np.float32(1.0507009873554805), np.float32(1.6732632423543772)
# Offsets (9, 2), x and y, of a 3x3 neighbourhood, row by row.
KERNEL = np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)], np.float32)
# Of a computation with exact interpolation; cv2.remap rounds places to 1/32 px.
GOLDEN_DESCRIPTORS = (
    (0.0542, -0.0506, 0.0436, -0.0227, -0.1736, 0.1664, -0.1479, 0.0787),
    (0.0895, -0.0499, 0.0041, 0.0163, -0.0613, -0.0064, -0.1310, -0.0768))
MAX_DESCRIPTOR_ERROR = 0.01


class Aliked:
    """ALIKED-n16rot (Zhao et al., IEEE TIM 2023), one network per calling thread.

    Raises RuntimeError if the model is not the right one, or if this OpenCV computes it wrong.
    """

    def __init__(self, model: Path = MODEL) -> None:
        with np.load(io.BytesIO(read_model(model, SHA256))) as weights:
            self._weights: dict[str, npt.NDArray[Any]] = dict(weights)
        self._local = threading.local()
        check_golden_output(self, GOLDEN_DESCRIPTORS, MAX_DESCRIPTOR_ERROR)

    def __call__(self, image: npt.NDArray[np.uint8]) -> FloatMap:
        """Return unit descriptors (h / 8, w / 8, 128) of an RGB image, sides multiples of 32."""
        require_sides(image)
        features = AlikedFeatures(self._extract(image), self._weights)
        rows, columns = (side // CELL_PX for side in image.shape[:2])
        cells = CELL_PX * grid(rows, columns).reshape(-1, 2) + np.float32(CELL_PX / 2 - 0.5)
        found = [features.describe(cells[i:i + CHUNK]) for i in range(0, len(cells), CHUNK)]
        return np.concatenate(found).reshape(rows, columns, -1)

    def _extract(self, image: npt.NDArray[np.uint8]) -> list[list[FloatMap]]:
        """Return the features of four resolutions, 1 to 1/32, in layers of four channels.

        The network leaves the scale of its last activations, which OpenCV 4.5.4 lacks, to us.
        """
        if not hasattr(self._local, 'net'):
            self._local.net = cv2.dnn.readNetFromONNX(self._weights['backbone'])
        self._local.net.setInput(cv2.dnn.blobFromImage(image, 1 / 255))
        full, half, eighth = (x[0] for x in self._local.net.forward(['full', 'half', 'eighth']))
        eighth = self._deform_block('block3', SELU_SCALE * eighth.transpose(1, 2, 0))
        rows, columns, channels = eighth.shape
        last = self._deform_block('block4', eighth.reshape(
            rows // 4, 4, columns // 4, 4, channels).mean(axis=(1, 3)))
        return [_merge_planes(full), _merge_planes(SELU_SCALE * half),
                split_channels(selu(eighth @ self._weights['reduce3'])),
                split_channels(selu(last @ self._weights['reduce4']))]

    def _deform_block(self, name: str, x: FloatMap) -> FloatMap:
        """Two deformable convolutions (Dai et al., ICCV 2017) of x (h, w, c), plus a 1x1 one."""
        y = selu(self._deform(f'{name}.conv1', x))
        return selu(self._deform(f'{name}.conv2', y) + x @ self._weights[f'{name}.skip'])

    def _deform(self, name: str, x: FloatMap) -> FloatMap:
        """Convolve x (h, w, c) at nine places, each moved by an offset that x itself gives."""
        weights, layers = self._weights, split_channels(x)
        places = grid(*x.shape[:2])[:, :, None] + KERNEL
        offset = _gather(layers, places) @ weights[f'{name}.offset'] \
            + weights[f'{name}.offset_bias']
        reach = max(x.shape[:2]) / 4
        offset = offset.clip(-reach, reach).reshape(places.shape)[..., ::-1]
        return _gather(layers, places + offset) @ weights[f'{name}.weight'] \
            + weights[f'{name}.bias']


class AlikedFeatures:
    """The features of an image: 128 channels at any pixel, 32 of each of four resolutions."""

    def __init__(self, layers: list[list[FloatMap]], weights: dict[str, npt.NDArray[Any]]) -> None:
        self._layers, self._weights = layers, weights
        self._size = np.array(layers[0][0].shape[1::-1], np.float32)

    def describe(self, pixel: FloatMap) -> FloatMap:
        """Return unit descriptors (n, 128) at pixels (n, 2): the sparse deformable head."""
        weights, count = self._weights, len(pixel)
        patch = self._sample(np.clip(np.floor(pixel), 1, self._size - 2)[:, None] + KERNEL)
        hidden = selu(patch.reshape(count, -1) @ weights['head.offset1'] + weights['head.bias1'])
        reach = self._size.max() / 4
        offset = (hidden @ weights['head.offset2'] + weights['head.bias2']).clip(-reach, reach)
        places = pixel[:, None] + offset.reshape(count, 2, -1).transpose(0, 2, 1)
        seen = selu(self._sample(places) @ weights['head.mix'])
        return normalize(seen.reshape(count, -1) @ weights['head.aggregate'])

    def _sample(self, pixel: FloatMap) -> FloatMap:
        """Return features (..., 128) at pixels (..., 2), of unit length; zero off the image."""
        flat = pixel.reshape(-1, 2)
        levels = []
        for layers in self._layers:
            at = flat * ((np.array(layers[0].shape[1::-1], np.float32) - 1) / (self._size - 1))
            levels.append(sample(layers, at[:, 0], at[:, 1], cv2.INTER_LINEAR))
        levels[0] = selu(levels[0] @ self._weights['reduce1'])
        features = np.concatenate(levels, axis=1)
        inside = (np.clip(flat + 1, 0, 1) * np.clip(self._size - flat, 0, 1)).prod(axis=1)
        length = np.sqrt(np.einsum('ij,ij->i', features, features)) + np.float32(1e-9)
        features *= (inside / length)[:, None]
        return features.reshape(*pixel.shape[:-1], -1)


def selu(x: FloatMap) -> FloatMap:
    """Scaled exponential linear units (Klambauer et al., NeurIPS 2017)."""
    low = np.minimum(x, 0)
    np.exp(low, out=low)
    low -= 1
    low *= SELU_ALPHA
    low += np.maximum(x, 0)
    low *= SELU_SCALE
    return low


def grid(rows: int, columns: int) -> FloatMap:
    """Return the coordinates (rows, columns, 2), x and y, of cells."""
    x, y = (np.arange(count, dtype=np.float32) for count in (columns, rows))
    return np.stack(np.meshgrid(x, y), axis=-1)


def _gather(layers: list[FloatMap], places: FloatMap) -> FloatMap:
    """Interpolate layers at places (rows, columns, n, 2): (rows, columns, n x channels)."""
    rows, columns, count = places.shape[:3]
    x, y = np.moveaxis(places.reshape(rows, columns * count, 2), -1, 0)
    seen = [cv2.remap(layer, np.ascontiguousarray(x), np.ascontiguousarray(y), cv2.INTER_LINEAR,
                      borderMode=cv2.BORDER_CONSTANT) for layer in layers]
    return np.concatenate(seen, axis=-1, dtype=np.float32).reshape(rows, columns, -1)


def _merge_planes(x: FloatMap) -> list[FloatMap]:
    """Return x (c, h, w) in layers (h, w, 4)."""
    return [cv2.merge(list(x[c:c + 4])) for c in range(0, len(x), 4)]
