"""Without PyTorch and transformers all but the model's own files can be imported and used."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[3] / 'crosspoint_ros'
BLOCKED = 'import sys\nsys.modules.update(torch=None, transformers=None, tokenizers=None)\n'
NEED_TORCH = {*(f'crosspoint_ros.matchers.cropond.engine.{name}' for name in (
    'checkpoint', 'coordinate_decoding', 'decoder', 'engine', 'kv_cache', 'memory',
    'prefix_cache')),
    *(f'crosspoint_ros.bench.latency.{name}' for name in ('baseline', 'dummy_model', 'roofline'))}
NEED_MUJOCO = {f'crosspoint_ros.bench.pick.{name}' for name in (
    'arm', 'grasp', 'hand_eye', 'live_demo', 'report', 'rig', 'trial', 'world')}


def run(code: str) -> str:
    ended = subprocess.run([sys.executable, '-c', BLOCKED + code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_module_but_those_that_run_the_model_can_be_imported_without_torch():
    names = {'.'.join(('crosspoint_ros', *f.relative_to(PACKAGE).with_suffix('').parts))
             for part in ('core', 'matchers', 'bench') for f in (PACKAGE / part).rglob('*.py')}
    others = sorted(name.removesuffix('.__init__') for name in names - NEED_TORCH - NEED_MUJOCO)
    assert len(others) > len(NEED_TORCH)
    run(f'from importlib import import_module\nfor name in {others}: import_module(name)')


def test_choosing_cropond_without_torch_says_what_to_install():
    printed = run('from crosspoint_ros.matchers import load_matcher\n'
               'try: load_matcher("cropond", model="/nowhere")\n'
               'except ValueError as error: print(error)')
    assert 'cropond needs torch: pip install torch "transformers>=4.57,<6" pillow' in printed
