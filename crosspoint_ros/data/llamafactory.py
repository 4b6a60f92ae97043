"""`crosspoint data train-config`: writes the LLaMA-Factory configuration to train CroPond."""
from __future__ import annotations

import argparse
import json
import os
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosspoint_ros.core.image_io import atomic_write
from crosspoint_ros.data.qa.check import find_training_faults, iter_items
from crosspoint_ros.data.qa.questions import Coordinates

METHODS = ('full', 'lora')
AUTHORS_BATCH_SIZE = 16  # 8 GPUs, 1 question each, 2 accumulation steps
AUTHORS_WARMUP_STEPS = 100
MAX_PIXELS = 768 * 28 * 28  # of an image at the model's input: 768 tokens
MAX_TOKENS = 4096
SAVE_STEPS = 1000  # the authors' 10000 would save nothing of fewer than 160,000 questions
QUESTIONS_PER_WORKER, MAX_WORKERS = 1000, 32
DEFAULT_PORT = 29514
SPLIT_FORMAT = {'formatting': 'sharegpt',
                'columns': {'messages': 'conversations', 'images': 'images'},
                'tags': {'role_tag': 'from', 'content_tag': 'value', 'user_tag': 'human',
                         'assistant_tag': 'gpt'}}

_SHARED: dict[str, Any] = {
    'train_batch_size': 'auto', 'train_micro_batch_size_per_gpu': 'auto',
    'gradient_accumulation_steps': 'auto', 'gradient_clipping': 'auto',
    'zero_allow_untested_optimizer': True, 'bf16': {'enabled': 'auto'},
    'fp16': {'enabled': 'auto', 'loss_scale': 0, 'loss_scale_window': 1000,
             'initial_scale_power': 16, 'hysteresis': 2, 'min_loss_scale': 1}}
DEEPSPEED: dict[int, dict[str, Any]] = {
    2: {**_SHARED, 'zero_optimization': {
        'stage': 2, 'allgather_partitions': True, 'allgather_bucket_size': 5e8,
        'overlap_comm': True, 'reduce_scatter': True, 'reduce_bucket_size': 5e8,
        'contiguous_gradients': True, 'round_robin_gradients': True}},
    3: {**_SHARED, 'zero_optimization': {
        'stage': 3, 'overlap_comm': True, 'contiguous_gradients': True, 'sub_group_size': 1e9,
        'reduce_bucket_size': 'auto', 'stage3_prefetch_bucket_size': 'auto',
        'stage3_param_persistence_threshold': 'auto', 'stage3_max_live_parameters': 1e9,
        'stage3_max_reuse_distance': 1e9, 'stage3_gather_16bit_weights_on_model_save': True}}}


@dataclass(frozen=True)
class QADataset:
    """A data set on disk: the number of questions of each split, the unit of its points."""

    folder: Path
    train: int
    val: int
    coordinates: str


@dataclass(frozen=True)
class TrainingConfig:
    """What is trained, how and where; the other nodes reach the first at host and port."""

    data: QADataset
    model: str
    method: str
    gpus_per_node: int
    nodes: int
    host: str
    port: int
    zero_stage: int  # of DeepSpeed ZeRO, 0 for none

    @property
    def gpus(self) -> int:
        """The number of GPUs of all nodes."""
        return self.gpus_per_node * self.nodes

    @property
    def accumulation_steps(self) -> int:
        """Gradient accumulation steps, for the authors' batch size where the GPUs divide it."""
        return max(1, round(AUTHORS_BATCH_SIZE / self.gpus))

    @property
    def batch_size(self) -> int:
        """Questions per step, over all GPUs."""
        return self.gpus * self.accumulation_steps

    @property
    def steps(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-self.data.train // self.batch_size)


def format_train_yaml(out: Path, training: TrainingConfig) -> str:
    """Return the configuration of `llamafactory-cli train`."""
    lora, data = training.method == 'lora', training.data
    sections: list[tuple[str, dict[str, object]]] = [
        (f'At most {MAX_PIXELS} pixels of an image, as the authors.', {
            'model_name_or_path': training.model, 'image_max_pixels': MAX_PIXELS,
            'trust_remote_code': False}),
        ('A LoRA as in the examples of LLaMA-Factory: the authors published none.' if lora else
         'As the authors: train the text model, freeze vision tower and projector.', {
             'stage': 'sft', 'do_train': True, 'finetuning_type': training.method,
             **({'lora_rank': 8, 'lora_target': 'all'} if lora else {}),
             'freeze_vision_tower': True, 'freeze_multi_modal_projector': True,
             'freeze_language_model': False,
             **({'deepspeed': str(out / 'deepspeed.json')} if training.zero_stage else {})}),
        ('', {'dataset_dir': str(out), 'dataset': 'crosspoint_train',
              'media_dir': str(data.folder), 'template': 'qwen2_vl', 'cutoff_len': MAX_TOKENS,
              'preprocessing_num_workers': min(MAX_WORKERS,
                                               1 + data.train // QUESTIONS_PER_WORKER)}),
        ('An interrupted run resumes; another run needs another folder.', {
            'output_dir': str(out / ('adapter' if lora else 'model')), 'logging_steps': 5,
            'save_steps': SAVE_STEPS, 'save_total_limit': 1, 'plot_loss': True,
            'overwrite_output_dir': False, 'report_to': 'none'}),
        (f'{training.batch_size} questions a step, {training.steps} steps. Warm-up: '
         f'{AUTHORS_WARMUP_STEPS} steps, at most a tenth of all.', {
             'per_device_train_batch_size': 1,
             'gradient_accumulation_steps': training.accumulation_steps,
             'learning_rate': 1e-4 if lora else 1e-5, 'num_train_epochs': 1,
             'lr_scheduler_type': 'cosine',
             'warmup_steps': min(AUTHORS_WARMUP_STEPS, training.steps // 10),
             'weight_decay': 0.1, 'bf16': True, 'ddp_timeout': 90000})]
    if data.val:
        sections.append(('Scenes that are not in the training split.', {
            'eval_dataset': 'crosspoint_val', 'eval_strategy': 'steps', 'eval_steps': 500,
            'per_device_eval_batch_size': 1}))
    return '\n'.join((f'# {comment}\n' if comment else '') + _format_settings(settings)
                     for comment, settings in sections)


def _format_settings(settings: dict[str, object]) -> str:
    """Format settings as YAML: a JSON value, but 1.0e-05 for 1e-05, a string in YAML 1.1."""
    return ''.join(f'{name}: ' + (f'{value:.1e}' if isinstance(value, float) and value < 1e-3
                                  else json.dumps(value)) + '\n'
                   for name, value in settings.items())


def format_train_script(training: TrainingConfig) -> str:
    """Return the script that trains, and merges a LoRA; its arguments override settings."""
    rank = '"${NODE_RANK:?set the number of this machine, 0 for the first}"'
    lines = ['#!/usr/bin/env bash', 'set -euo pipefail',
             f'export FORCE_TORCHRUN=1 NPROC_PER_NODE={training.gpus_per_node} '
             f'NNODES={training.nodes}',
             f'export NODE_RANK={rank if training.nodes > 1 else 0}',
             f'export MASTER_ADDR={shlex.quote(training.host)} MASTER_PORT={training.port}',
             # The launcher splits arguments at blanks: relative names instead of paths.
             'cd "$(dirname "$0")"', 'llamafactory-cli train train.yaml "$@"']
    if training.method == 'lora':
        lines.append('[ "$NODE_RANK" != 0 ] || llamafactory-cli export merge.yaml')
    return '\n'.join(lines) + '\n'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('folder', type=Path, metavar='DATASET', help='a data set built by '
                        '`crosspoint data build`')
    parser.add_argument('--out', type=Path, required=True, help='the output folder')
    parser.add_argument('--model', required=True, help='the initial model, a folder or a hub '
                        'id: Qwen/Qwen2.5-VL-7B-Instruct, or a CroPond')
    parser.add_argument('--method', choices=METHODS, default='full', help='train all weights of '
                        'the text model, as the authors, or a LoRA (default: full)')
    parser.add_argument('--gpus', type=int, default=1, help='GPUs per machine (default: 1)')
    parser.add_argument('--nodes', type=int, default=1, help='number of machines (default: 1)')
    parser.add_argument('--zero', type=int, choices=(0, *DEEPSPEED), help='stage of DeepSpeed '
                        'ZeRO; 0: none (default: 3 for full on several GPUs, as the authors)')
    parser.add_argument('--master', default='', metavar='HOST[:PORT]', help='the first of several '
                        f'machines, as the others reach it (default port: {DEFAULT_PORT})')


def main(args: argparse.Namespace) -> int:
    """Write the files; print how to start the training and how to load the result."""
    training = build_training_config(args, read_dataset(args.folder))
    for name, text in render_files(args.out.absolute(), training).items():
        atomic_write(args.out / name, text.encode())
    (args.out / 'train.sh').chmod(0o755)
    print(format_summary(args.out, training))
    return 0


def read_dataset(folder: Path) -> QADataset:
    """Count the questions. Raises ValueError, FileNotFoundError for an unusable data set."""
    numbers, known, coordinates = Counter[str](), set[str](), ''
    for item in iter_items(folder):
        if item.fault:
            raise ValueError(f'{folder}: {item.name} is not a question: {item.fault}; run '
                             'crosspoint data check')
        if faults := '; '.join(map(str, find_training_faults(item.fields))):
            raise ValueError(f'{folder}: {item.name}: {faults}; run crosspoint data check')
        for name in item.fields['images']:
            if name not in known and not os.path.isfile(folder / name):
                printable = name.encode('utf-8', 'backslashreplace').decode()
                raise FileNotFoundError(f'{folder}: {printable} is missing, an image of '
                                        f'crosspoint_{item.split}.json, item {item.number}')
            known.add(name)
        numbers[item.split] += 1
        coordinates = item.fields.get('coordinates', coordinates)
    if not numbers['train']:
        raise ValueError(f'{folder}: there are 0 questions to train on (at least 1)')
    return QADataset(folder.absolute(), numbers['train'], numbers['val'], coordinates)


def build_training_config(args: argparse.Namespace, data: QADataset) -> TrainingConfig:
    """Complete the options. Raises ValueError if they contradict each other."""
    if args.gpus < 1 or args.nodes < 1:
        raise ValueError(f'--gpus {args.gpus} and --nodes {args.nodes} must be 1 or more')
    if args.method == 'full' and args.nodes > 1 and args.zero == 0:
        raise ValueError(f'--method full on {args.nodes} machines with --zero 0: every GPU would '
                         'hold the whole model and its optimizer; choose 2 or 3')
    if args.nodes > 1 and not args.master:
        raise ValueError(f'--nodes {args.nodes} needs --master HOST[:PORT], where the other '
                         'machines reach the first one')
    if not args.model.strip():
        raise ValueError("--model '' is empty; give a folder or a hub id")
    zero = args.zero
    if zero is None:
        zero = 3 if args.method == 'full' and args.gpus * args.nodes > 1 else 0
    host, _, port = args.master.partition(':')
    if args.master and not (host and (port or str(DEFAULT_PORT)).isdigit()):
        raise ValueError(f'--master {args.master!r} must be HOST or HOST:PORT')
    folder = Path(args.model).expanduser()
    model = str(folder.absolute()) if folder.is_dir() else args.model
    return TrainingConfig(data, model, args.method, args.gpus, args.nodes, host or '127.0.0.1',
                          int(port or DEFAULT_PORT), zero)


def render_files(out: Path, training: TrainingConfig) -> dict[str, str]:
    """Return the texts of the files by name."""
    splits = ('crosspoint_train', 'crosspoint_val')[:2 if training.data.val else 1]
    info = {split: {'file_name': str(training.data.folder / f'{split}.json'), **SPLIT_FORMAT}
            for split in splits}
    files = {'dataset_info.json': json.dumps(info, indent=2) + '\n',
             'train.yaml': format_train_yaml(out, training),
             'train.sh': format_train_script(training)}
    if training.zero_stage:
        files['deepspeed.json'] = json.dumps(DEEPSPEED[training.zero_stage], indent=2) + '\n'
    if training.method == 'lora':
        files['merge.yaml'] = _format_settings({
            'model_name_or_path': training.model, 'adapter_name_or_path': str(out / 'adapter'),
            'template': 'qwen2_vl', 'finetuning_type': 'lora', 'trust_remote_code': False,
            'export_dir': str(out / 'merged'), 'export_size': 5, 'export_device': 'cpu',
            'infer_dtype': 'bfloat16',  # LLaMA-Factory's default depends on the GPU that merges
            'export_legacy_format': False})
    return files


def format_summary(out: Path, training: TrainingConfig) -> str:
    """Describe the training and the next steps."""
    data = training.data
    lines = [f'{data.train} questions to train on, {data.val} to validate; {training.method}, '
             f'{training.gpus} GPU(s), {training.batch_size} questions a step, '
             f'{training.steps} steps']
    if training.batch_size != AUTHORS_BATCH_SIZE:
        lines.append(f'the authors took {AUTHORS_BATCH_SIZE} questions a step, which '
                     f'{training.gpus} GPUs cannot share evenly')
    if data.coordinates == Coordinates.PIXEL.value:
        lines.append('its points are in pixels, but the trainer shrinks images of more than '
                     f'{MAX_PIXELS} pixels: build it with --coordinates thousand instead')
    where = f'{out}/train.sh'
    if training.nodes > 1:
        lines.append(f'start it on each of the {training.nodes} machines, with the data, '
                     f'the model and {out} at the same paths: NODE_RANK=0 {where}, '
                     f'NODE_RANK=1 {where}, ...')
    else:
        lines.append(f'start it: {where}   (needs: pip install llamafactory '
                     f'"transformers<5"{" deepspeed" if training.zero_stage else ""})')
    result = out.absolute() / ('merged' if training.method == 'lora' else 'model')
    lines.append('afterwards: ros2 launch crosspoint_ros bringup.launch.py matcher:=cropond '
                 f'"matcher_options:={{model: {result}}}" ...')
    return '\n'.join(lines)
