"""Images are cut as transformers' own processor cuts them."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.matchers.cropond.image_processor import (
    QWEN2_5_VL,
    QWEN3_VL,
    TRAINED_MAX_PIXELS,
    patchify,
    smart_resize,
)


@pytest.mark.parametrize(('size', 'seen'), [
    ((640, 480), (644, 476)), ((1280, 720), (1008, 560)), ((1920, 1080), (1008, 560)),
    ((20, 20), (56, 56)), ((28, 560), (28, 560))])
def test_sizes_are_multiples_of_28_under_the_cap(size, seen):
    assert smart_resize(*size, TRAINED_MAX_PIXELS) == seen


@pytest.mark.parametrize(('size', 'seen'), [
    ((640, 480), (640, 480)), ((1280, 720), (1024, 576)), ((20, 20), (256, 256))])
def test_sizes_of_qwen3_vl_are_multiples_of_32(size, seen):
    assert smart_resize(*size, TRAINED_MAX_PIXELS, QWEN3_VL) == seen


def test_an_image_too_thin_is_refused():
    with pytest.raises(Rejected, match='2000x4 px is too thin') as refused:
        smart_resize(2000, 4, TRAINED_MAX_PIXELS)
    assert refused.value.code == Code.BAD_REQUEST


@pytest.mark.parametrize('size', [(480, 640), (100, 60), (30, 30), (720, 1280), (333, 517)],
                         ids=str)
@pytest.mark.parametrize('config', [QWEN2_5_VL, QWEN3_VL], ids=['2.5', '3'])
def test_patches_are_those_of_transformers(size, config):
    pytest.importorskip('transformers', reason='no transformers here: make test-cropond')
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil as Processor,
        )
    except ImportError:  # transformers 4
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
            Qwen2VLImageProcessor as Processor,
        )
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    processor = Processor(
        min_pixels=config.min_pixels, max_pixels=TRAINED_MAX_PIXELS, patch_size=config.patch_px,
        image_mean=list(config.mean), image_std=list(config.std))
    expected = processor(images=[image], return_tensors='np')
    cut, grid = patchify(image, TRAINED_MAX_PIXELS, config)
    assert list(expected['image_grid_thw'][0]) == list(grid)
    np.testing.assert_allclose(cut, expected['pixel_values'], atol=2e-6)
