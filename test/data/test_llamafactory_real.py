"""The real LLaMA-Factory reads what is written for it, trains two steps; the matcher loads that.

`make test-training` runs it in an environment that has LLaMA-Factory.
"""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rgbd_folders import read_kitchen_views, write_scannet

from crosspoint_ros.cli import main

pytest.importorskip('llamafactory', reason='make test-training has it')
BIN = Path(sys.executable).parent
# No GPU here: everything else is as written.
HERE = ['max_steps=2', 'bf16=false', 'use_cpu=true', 'preprocessing_num_workers=1']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    from tiny_qwen import build
    folder = tmp_path_factory.mktemp('training')
    for name in ('a', 'b'):
        write_scannet(folder / 'scenes' / name, read_kitchen_views())
    assert main(['data', 'build', str(folder / 'scenes'), '--out', str(folder / 'data'),
                 '--number', '60', '--val', '0.5']) == 0
    return folder / 'data', build(folder / 'tiny')


def ran(*words) -> str:
    done = subprocess.run(words, env={**os.environ, 'HF_HUB_OFFLINE': '1'}, text=True, check=False,
                          timeout=300, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def written(scenes, out, *words):
    data, model = scenes
    assert main(['data', 'train-config', str(data), '--out', str(out), '--model', str(model),
                 *words]) == 0
    return out


@pytest.mark.parametrize('words', [
    [], ['--method', 'lora'], ['--gpus', '8'], ['--gpus', '8', '--nodes', '2', '--master', 'one'],
    ['--gpus', '2', '--zero', '2', '--method', 'lora']])
def test_the_trainers_own_parser_takes_every_setting(scenes, tmp_path, words):
    out = written(scenes, tmp_path / 'out', *words)
    # DeepSpeed is no part of this environment, and the parser needs it to read its file.
    code = ('import sys, yaml; from llamafactory.hparams.parser import _parse_train_args as parse;'
            'told = yaml.safe_load(open(sys.argv[1])); told.pop("deepspeed", 0);'
            'print(parse(told | {"bf16": False, "use_cpu": True}))')
    said = ran(sys.executable, '-c', code, str(out / 'train.yaml'))
    assert 'image_max_pixels=602112' in said
    assert "dataset=['crosspoint_train']" in said


@pytest.mark.parametrize('method', ['full', 'lora'])
def test_two_steps_are_trained_and_the_matcher_loads_the_result(scenes, tmp_path, method):
    from crosspoint_ros.matchers.cropond.engine.checkpoint import load_checkpoint
    out = written(scenes, tmp_path / 'out', '--method', method)
    said = ran(f'{BIN}/llamafactory-cli', 'train', str(out / 'train.yaml'), *HERE)
    assert 'train_loss' in said
    assert 'eval_loss' in said
    if method == 'lora':
        ran(f'{BIN}/llamafactory-cli', 'export', str(out / 'merge.yaml'))
    folder = out / ('model' if method == 'full' else 'merged')
    loaded = load_checkpoint(str(folder), '', 'cpu', 'auto')
    started = load_checkpoint(str(scenes[1]), '', 'cpu', 'auto')
    # What is merged is written in bfloat16, as the checkpoints of the hub are.
    changed = [name for (name, a), (_, b) in zip(
        loaded.model.named_parameters(), started.model.named_parameters(), strict=True)
        if not bool((a == (b if method == 'full' else b.bfloat16().to(b.dtype))).all())]
    assert changed
    assert not [name for name in changed if 'visual' in name]
