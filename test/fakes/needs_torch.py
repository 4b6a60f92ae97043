"""Skips the importing test module without PyTorch, unless CROSSPOINT_NEEDS_TORCH is set."""
from __future__ import annotations

import os

import pytest

if 'CROSSPOINT_NEEDS_TORCH' not in os.environ:
    for name in ('torch', 'transformers'):
        pytest.importorskip(name, reason=f'{name} is not installed: make test-cropond')
