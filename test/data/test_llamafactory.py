"""What a trainer is given: the authors' settings, spread over the machines there are."""
from __future__ import annotations

import json
import os
import subprocess

import pytest
import yaml

from crosspoint_ros.cli import main

QUESTION = {'id': '0', 'images': ['images/a.jpg'], 'conversations': [
    {'from': 'human', 'value': '<image>\nWhere?'}, {'from': 'gpt', 'value': 'There.'}]}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / 'data set'
    (folder / 'images').mkdir(parents=True)
    (folder / 'images/a.jpg').write_bytes(b'a double of a picture')
    for split, number in (('train', 50), ('val', 0)):
        lines = ',\n'.join([json.dumps(QUESTION)] * number)
        (folder / f'crosspoint_{split}.json').write_text(f'[\n{lines}\n]\n')
    return folder


def write(data, *words):
    out = data.parent / 'out of it'  # LLaMA-Factory's launcher splits paths at blanks
    assert main(['data', 'train-config', str(data), '--out', str(out), '--model', 'a/b',
                 *words]) == 0
    return out, yaml.safe_load((out / 'train.yaml').read_text())


def test_the_settings_are_those_of_the_authors(data):
    _, told = write(data, '--gpus', '8')
    assert told | {
        'stage': 'sft', 'finetuning_type': 'full', 'template': 'qwen2_vl', 'weight_decay': 0.1,
        'per_device_train_batch_size': 1, 'gradient_accumulation_steps': 2, 'cutoff_len': 4096,
        'learning_rate': 1e-5, 'lr_scheduler_type': 'cosine', 'num_train_epochs': 1, 'bf16': True,
        'image_max_pixels': 602112, 'freeze_vision_tower': True,
        'freeze_multi_modal_projector': True, 'freeze_language_model': False} == told


@pytest.mark.parametrize(('gpus', 'nodes', 'accumulated'), [
    (1, 1, 16), (4, 1, 4), (8, 1, 2), (8, 2, 1), (3, 1, 5), (8, 4, 1)])
def test_a_step_has_the_authors_sixteen_questions_where_the_machines_can_share_them(
        data, capsys, gpus, nodes, accumulated):
    _, told = write(data, '--gpus', str(gpus), '--nodes', str(nodes), '--master', 'one')
    assert told['gradient_accumulation_steps'] == accumulated
    said = capsys.readouterr().out
    assert f'{gpus * nodes * accumulated} questions a step' in said
    assert ('the authors took 16' in said) == (gpus * nodes * accumulated != 16)


def test_warm_up_is_a_tenth_of_a_short_training(data):
    assert write(data)[1]['warmup_steps'] == 0  # 50 questions are 4 steps
    lines = ',\n'.join([json.dumps(QUESTION)] * 20000)
    (data / 'crosspoint_train.json').write_text(f'[\n{lines}\n]\n')
    assert write(data)[1]['warmup_steps'] == 100


def test_several_gpus_share_the_whole_model_as_the_authors_did(data):
    out, told = write(data, '--gpus', '2')
    assert told['deepspeed'] == str(out / 'deepspeed.json')
    assert json.loads((out / 'deepspeed.json').read_text())['zero_optimization']['stage'] == 3
    assert 'deepspeed' not in write(data, '--gpus', '2', '--zero', '0')[1]
    assert 'deepspeed' not in write(data, '--gpus', '2', '--method', 'lora')[1]


def test_images_are_found_beside_the_questions(data):
    out, told = write(data)
    known = json.loads((out / 'dataset_info.json').read_text())
    assert known['crosspoint_train']['file_name'] == str(data / 'crosspoint_train.json')
    assert told['media_dir'] == str(data)
    assert told['dataset_dir'] == str(out)


def test_scenes_kept_for_validation_are_validated_on(data):
    assert 'eval_dataset' not in write(data)[1]
    (data / 'crosspoint_val.json').write_text(f'[\n{json.dumps(QUESTION)}\n]\n')
    out, told = write(data)
    assert told['eval_dataset'] == 'crosspoint_val'
    assert 'crosspoint_val' in json.loads((out / 'dataset_info.json').read_text())


def test_a_lora_is_merged_into_one_model_by_the_first_machine_alone(data):
    out, told = write(data, '--method', 'lora', '--nodes', '2', '--master', 'one:3000')
    merged = yaml.safe_load((out / 'merge.yaml').read_text())
    assert merged['adapter_name_or_path'] == told['output_dir'] == str(out / 'adapter')
    assert told['learning_rate'] == 1e-4
    called = out / 'llamafactory-cli'  # a double that says what it was called with
    called.write_text('#!/bin/sh\necho "$@" "$NNODES $NODE_RANK $MASTER_ADDR:$MASTER_PORT"\n')
    called.chmod(0o755)
    for rank, calls in (('0', 2), ('1', 1)):
        ran = subprocess.run([out / 'train.sh', 'max_steps=2'], check=True, text=True, env={
            **os.environ, 'NODE_RANK': rank, 'PATH': f'{out}:{os.environ["PATH"]}'},
            capture_output=True).stdout.splitlines()
        assert len(ran) == calls
        assert ran[0] == f'train train.yaml max_steps=2 2 {rank} one:3000'


def test_the_same_again_gives_the_same_bytes(data):
    out, _ = write(data)
    first = {p.name: p.read_bytes() for p in out.iterdir()}
    write(data)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == first


@pytest.mark.parametrize(('words', 'said'), [
    (['--gpus', '0'], '--gpus 0'), (['--nodes', '2'], '--master'), (['--model', ' '], 'is empty'),
    (['--master', 'one:x'], 'must be HOST'),
    (['--nodes', '2', '--master', 'one', '--zero', '0'], 'the whole model and its optimizer')])
def test_what_does_not_fit_is_refused(data, capsys, words, said):
    assert main(['data', 'train-config', str(data), '--out', str(data / 'out'), '--model', 'a/b',
                 *words]) == 1
    assert said in capsys.readouterr().err
    assert not (data / 'out').exists()


def test_a_folder_that_is_no_data_set_is_refused(data, tmp_path, capsys):
    words = ['--out', str(tmp_path / 'out'), '--model', 'a/b']
    assert main(['data', 'train-config', str(tmp_path / 'nowhere'), *words]) == 1
    assert 'not a data set' in capsys.readouterr().err
    (data / 'crosspoint_train.json').write_text('[\n]\n')
    assert main(['data', 'train-config', str(data), *words]) == 1
    assert '0 questions' in capsys.readouterr().err
    (data / 'crosspoint_train.json').write_text('[\n{"id": "cut\n')
    assert main(['data', 'train-config', str(data), *words]) == 1
    assert 'item 1 is not a question' in capsys.readouterr().err


def test_an_image_that_is_not_there_is_named(data, capsys):
    (data / 'images/a.jpg').unlink()
    assert main(['data', 'train-config', str(data), '--out', str(data / 'out'), '--model', 'a/b'
                 ]) == 1
    assert 'images/a.jpg is missing, an image of crosspoint_train.json, item 1' in \
        capsys.readouterr().err


def test_points_in_pixels_are_warned_of(data, capsys):
    write(data)
    assert 'in pixels' not in capsys.readouterr().out
    line = json.dumps({**QUESTION, 'coordinates': 'pixel'})
    (data / 'crosspoint_train.json').write_text(f'[\n{line}\n]\n')
    write(data)
    assert 'its points are in pixels' in capsys.readouterr().out
