"""`crosspoint data train-config`: what LLaMA-Factory needs to train CroPond on a data set."""
from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosspoint_ros.data.check import items_of
from crosspoint_ros.data.training import (
    AUTHORS_BATCH,
    DEEPSPEED,
    MAX_PIXELS,
    METHODS,
    Cluster,
    Training,
    command_lines,
    merge_yaml,
    train_yaml,
)
from crosspoint_ros.data.whole import write_whole
from crosspoint_ros.data.wording import Coordinates

PORT = 29514


@dataclass(frozen=True)
class DataSet:
    """A data set that was built: its folder, and the number of questions of each split.

    coordinates: how points are written in it.
    """

    folder: Path
    train: int
    val: int
    coordinates: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('folder', type=Path, metavar='DATASET', help='what `crosspoint data build` '
                        'made')
    parser.add_argument('--out', type=Path, required=True, help='the folder of what is written')
    parser.add_argument('--model', required=True, help='what training begins with: a folder or a '
                        'hub id, e.g. Qwen/Qwen2.5-VL-7B-Instruct, or a CroPond')
    parser.add_argument('--method', choices=METHODS, default='full', help='train all weights of '
                        'the text model, as the authors did, or a LoRA (default: full)')
    parser.add_argument('--gpus', type=int, default=1, help='of each machine (default: 1)')
    parser.add_argument('--nodes', type=int, default=1, help='machines (default: 1)')
    parser.add_argument('--zero', type=int, choices=(0, *DEEPSPEED), help='stage of DeepSpeed '
                        'ZeRO; 0: none (default: 3 for full on several GPUs, as the authors)')
    parser.add_argument('--master', default='', metavar='HOST[:PORT]', help='the first of several '
                        f'machines, as the others reach it (default port: {PORT})')


def main(args: argparse.Namespace) -> int:
    """Write the files, and say how training starts and what the node loads afterwards."""
    data = data_set(args.folder)
    training = chosen(args, data)
    files = written(args.out.absolute(), data, training)
    for name, text in files.items():
        write_whole(args.out / name, text.encode())
    (args.out / 'train.sh').chmod(0o755)
    print(told(args.out, data, training))
    return 0


def data_set(folder: Path) -> DataSet:
    """Count the questions. Raises ValueError, FileNotFoundError for what cannot be trained on."""
    numbers = {'train': 0, 'val': 0}
    known: set[str] = set()
    coordinates = ''
    for item in items_of(folder):
        if not item.fields:
            raise ValueError(f'{folder}: crosspoint_{item.split}.json, item {item.number} is no '
                             'question: crosspoint data check tells more')
        for name in item.fields['images']:
            if name not in known and not (folder / name).is_file():
                raise FileNotFoundError(f'{folder}: {name} is not there, an image of '
                                        f'crosspoint_{item.split}.json, item {item.number}')
            known.add(name)
        numbers[item.split] = numbers.get(item.split, 0) + 1
        coordinates = item.fields.get('coordinates', coordinates)
    if not numbers['train']:
        raise ValueError(f'{folder}: there are 0 questions to train on (at least 1)')
    return DataSet(folder.absolute(), numbers['train'], numbers['val'], coordinates)


def chosen(args: argparse.Namespace, data: DataSet) -> Training:
    """Settle what was left open. Raises ValueError for what does not fit together."""
    if args.gpus < 1 or args.nodes < 1:
        raise ValueError(f'--gpus {args.gpus} and --nodes {args.nodes} must be 1 or more')
    if args.method == 'full' and args.nodes > 1 and args.zero == 0:
        raise ValueError(f'--method full on {args.nodes} machines with --zero 0: every GPU would '
                         'hold the whole model and its optimizer; choose 2 or 3')
    if args.nodes > 1 and not args.master:
        raise ValueError(f'--nodes {args.nodes} needs --master HOST[:PORT], where the other '
                         'machines reach the first one')
    if not args.model.strip():
        raise ValueError("--model '' names no model")
    several = args.gpus * args.nodes > 1
    zero = args.zero if args.zero is not None else (3 if args.method == 'full' and several else 0)
    host, _, port = args.master.partition(':')
    if args.master and not (host and (port or str(PORT)).isdigit()):
        raise ValueError(f'--master {args.master!r} is no HOST or HOST:PORT')
    folder = Path(args.model).expanduser()
    model = str(folder.absolute()) if folder.is_dir() else args.model
    return Training(model, args.method, Cluster(args.gpus, args.nodes, host or '127.0.0.1',
                                                int(port or PORT)), zero, data.train, data.val > 0)


def written(out: Path, data: DataSet, training: Training) -> dict[str, str]:
    """Return the files by name."""
    splits = ('train', 'val') if data.val else ('train',)
    info = {f'crosspoint_{split}': _described(data.folder / f'crosspoint_{split}.json')
            for split in splits}
    files = {'dataset_info.json': _json(info),
             'train.yaml': train_yaml(out, data.folder, training),
             'train.sh': command_lines(training)}
    if training.zero:
        files['deepspeed.json'] = _json(DEEPSPEED[training.zero])
    if training.method == 'lora':
        files['merge.yaml'] = merge_yaml(out, training)
    return files


def _described(path: Path) -> dict[str, Any]:
    return {'file_name': str(path), 'formatting': 'sharegpt',
            'columns': {'messages': 'conversations', 'images': 'images'},
            'tags': {'role_tag': 'from', 'content_tag': 'value', 'user_tag': 'human',
                     'assistant_tag': 'gpt'}}


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + '\n'


def told(out: Path, data: DataSet, training: Training) -> str:
    """Say what was written, and what comes next."""
    lines = [f'{data.train} questions to train on, {data.val} to validate; {training.method}, '
             f'{training.cluster.total} GPU(s), {training.batch} questions a step, '
             f'{training.steps} steps']
    if training.batch != AUTHORS_BATCH:
        lines.append(f'the authors took {AUTHORS_BATCH} questions a step, which '
                     f'{training.cluster.total} GPUs cannot share evenly')
    if data.coordinates == Coordinates.PIXEL.value:
        lines.append(f'its points are in pixels, and the trainer shrinks images of more than '
                     f'{MAX_PIXELS} pixels: build it with --coordinates thousand instead')
    where = f'{out}/train.sh'
    if training.cluster.nodes > 1:
        lines.append(f'start it on each of the {training.cluster.nodes} machines, with the data, '
                     f'the model and {out} at the same paths: NODE_RANK=0 {where}, '
                     f'NODE_RANK=1 {where}, ...')
    else:
        lines.append(f'start it: {where}   (needs: pip install llamafactory '
                     f'"transformers<5"{" deepspeed" if training.zero else ""})')
    result = out.absolute() / ('merged' if training.method == 'lora' else 'model')
    lines.append('afterwards: ros2 launch crosspoint_ros bringup.launch.py matcher:=cropond '
                 f'"matcher_options:={{model: {result}}}" ...')
    return '\n'.join(lines)
