"""The settings of a training: those of CroPond's authors, spread over the machines there are.

Theirs stand in their repository: scripts/train/train.sh, and the defaults of the trainer beside
it, a LLaMA-Factory with another limit of pixels.
"""
from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METHODS = ('full', 'lora')
AUTHORS_BATCH = 16  # 8 GPUs, 1 question each, 2 steps accumulated
AUTHORS_WARMUP = 100
MAX_PIXELS = 768 * 28 * 28  # of an image as the model sees it, 768 tokens
MAX_TOKENS = 4096
SAVE_STEPS = 1000  # the authors' 10000 are 160,000 questions: of fewer nothing would be saved
QUESTIONS_A_WORKER, MAX_WORKERS = 1000, 32

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
class Cluster:
    """Machines alike, each with so many GPUs; the first is reached at host and port."""

    gpus: int
    nodes: int
    host: str
    port: int

    @property
    def total(self) -> int:
        """GPUs of all machines."""
        return self.gpus * self.nodes


@dataclass(frozen=True)
class Training:
    """What is trained, how, and where. zero: stage of DeepSpeed ZeRO, 0 for none."""

    model: str
    method: str
    cluster: Cluster
    zero: int
    questions: int
    validates: bool

    @property
    def accumulated(self) -> int:
        """Steps whose gradients are added up, so that the batch is the authors' where it can be."""
        return max(1, round(AUTHORS_BATCH / self.cluster.total))

    @property
    def batch(self) -> int:
        """Questions a step, over all GPUs."""
        return self.cluster.total * self.accumulated

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return -(-self.questions // self.batch)


def train_yaml(out: Path, data: Path, training: Training) -> str:
    """Return what `llamafactory-cli train` reads."""
    lora = training.method == 'lora'
    sections: list[tuple[str, dict[str, object]]] = [
        (f'The authors train on at most {MAX_PIXELS} pixels of an image: so does this.', {
            'model_name_or_path': training.model, 'image_max_pixels': MAX_PIXELS,
            'trust_remote_code': False}),
        ('A LoRA as in the examples of LLaMA-Factory: the authors published none.' if lora else
         'As the authors: the text model learns, the eye and what joins the two stay.', {
             'stage': 'sft', 'do_train': True, 'finetuning_type': training.method,
             **({'lora_rank': 8, 'lora_target': 'all'} if lora else {}),
             'freeze_vision_tower': True, 'freeze_multi_modal_projector': True,
             'freeze_language_model': False,
             **({'deepspeed': str(out / 'deepspeed.json')} if training.zero else {})}),
        ('', {'dataset_dir': str(out), 'dataset': 'crosspoint_train', 'media_dir': str(data),
              'template': 'qwen2_vl', 'cutoff_len': MAX_TOKENS,
              'preprocessing_num_workers': min(MAX_WORKERS,
                                               1 + training.questions // QUESTIONS_A_WORKER)}),
        ('A training that was broken off goes on; another one needs another folder.', {
            'output_dir': str(out / ('adapter' if lora else 'model')), 'logging_steps': 5,
            'save_steps': SAVE_STEPS, 'save_total_limit': 1, 'plot_loss': True,
            'overwrite_output_dir': False, 'report_to': 'none'}),
        (f'{training.batch} questions a step, {training.steps} steps. Warm-up: '
         f'{AUTHORS_WARMUP} steps, or a tenth of all where these are few.', {
             'per_device_train_batch_size': 1,
             'gradient_accumulation_steps': training.accumulated,
             'learning_rate': 1e-4 if lora else 1e-5, 'num_train_epochs': 1,
             'lr_scheduler_type': 'cosine',
             'warmup_steps': min(AUTHORS_WARMUP, training.steps // 10),
             'weight_decay': 0.1, 'bf16': True, 'ddp_timeout': 90000})]
    if training.validates:
        sections.append(('Other scenes than those that are trained on.', {
            'eval_dataset': 'crosspoint_val', 'eval_strategy': 'steps', 'eval_steps': 500,
            'per_device_eval_batch_size': 1}))
    return _yaml(sections)


def merge_yaml(out: Path, training: Training) -> str:
    """Return what `llamafactory-cli export` reads, to make one checkpoint of model and LoRA."""
    return _yaml([('', {
        'model_name_or_path': training.model, 'adapter_name_or_path': str(out / 'adapter'),
        'template': 'qwen2_vl', 'finetuning_type': 'lora', 'trust_remote_code': False,
        'export_dir': str(out / 'merged'), 'export_size': 5, 'export_device': 'cpu',
        'infer_dtype': 'bfloat16',  # the trainer's own choice hangs on the GPU that merges

        'export_legacy_format': False})])


def _yaml(sections: list[tuple[str, dict[str, object]]]) -> str:
    """Write sections of settings; a string of JSON is one of YAML, whatever is in it."""
    blocks = []
    for comment, settings in sections:
        head = f'# {comment}\n' if comment else ''
        blocks.append(head + ''.join(f'{name}: {_value(value)}\n'
                                     for name, value in settings.items()))
    return '\n'.join(blocks)


def _value(value: object) -> str:
    # YAML 1.1 takes 1e-05 for a word: it wants the point.
    return f'{value:.1e}' if isinstance(value, float) and value < 1e-3 else json.dumps(value)


def command_lines(training: Training) -> str:
    """Return a script that trains, and merges a LoRA; KEY=VALUE behind it changes a setting."""
    cluster, several = training.cluster, training.cluster.nodes > 1
    rank = '"${NODE_RANK:?say which machine this is: 0 is the first}"' if several else '0'
    lines = ['#!/usr/bin/env bash', 'set -euo pipefail',
             f'export FORCE_TORCHRUN=1 NPROC_PER_NODE={cluster.gpus} NNODES={cluster.nodes}',
             f'export NODE_RANK={rank}',
             f'export MASTER_ADDR={shlex.quote(cluster.host)} MASTER_PORT={cluster.port}',
             # The launcher splits what it is given at blanks: no path of ours goes through it.
             'cd "$(dirname "$0")"', 'llamafactory-cli train train.yaml "$@"']
    if training.method == 'lora':
        lines.append('[ "$NODE_RANK" != 0 ] || llamafactory-cli export merge.yaml')
    return '\n'.join(lines) + '\n'
