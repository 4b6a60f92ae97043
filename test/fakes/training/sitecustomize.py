"""A DOUBLE of torchvision's compiled operators, where they are of another build than PyTorch.

The trainer imports torchvision for videos; training on images calls none of them.
"""
import importlib.util
from pathlib import Path

import torch

found = importlib.util.find_spec('torchvision')
compiled = next(Path(found.origin).parent.glob('_C*.so'), None) if found else None
try:
    torch.ops.load_library(str(compiled))
except OSError:
    OPERATORS = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
        OPERATORS.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
