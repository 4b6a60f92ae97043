"""A tiny Qwen2.5-VL trained to answer with the clicked point.

It is right whenever both images show the same, so that it passes the self-test, which a model with
random weights would not. On two different views it is wrong.
"""
from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tiny_qwen
import torch

from crosspoint_ros.bench.latency.cases import ModelShape
from crosspoint_ros.core.datatypes import Intrinsics, View
from crosspoint_ros.matchers.cropond.prompt import (
    PROMPT_HEADER,
    REPLY_HEADER,
    build_grounding_prompt,
    build_pointing_prompt,
)

JSON = '```json\n[\n\t{"point_2d": [{x}, {y}], "label": "it"}\n]\n```'
TAG = '<point x="{x}" y="{y}">it</point>'
UNSEEN = 'The point is not visible.'
# Its reply to a click in the left third, if it was trained with `hides`.
HIDDEN_BELOW = 300
# Only numbers of three digits: their distance from their copy is constant.
LEAST = 100
# An instruction is answered with the middle of the image.
THINGS = ('the drawer handle', 'the red cup', 'a switch')
MIDDLE = ('500', '500')
BATCH, STEPS, RATE = 32, 300, 3e-3
# Wide heads whose rotary waves are short: neighbours are easily told apart.
SHAPE = replace(tiny_qwen.TINY, hidden=96, heads=2, kv_heads=2, rope_theta=1e3)
# The same with sides that are multiples of 64, as bitsandbytes wants them.
IN_64S = replace(SHAPE, hidden=128, inner=256)
NONE = -100


def view(camera: str, seed: int = 0) -> View:
    """An image of noise, small enough for a model that was trained on few tokens."""
    image = np.random.default_rng(seed).integers(0, 255, (150, 200, 3), dtype=np.uint8)
    return View(camera, image, Intrinsics(200.0, 200.0, 99.5, 74.5, 200, 150), stamp_ns=seed)


def build(folder: Path, reply: str = JSON, hides: bool = False, seed: int = 0,
          shape: ModelShape = SHAPE, unseen: tuple[str, ...] = (UNSEEN,)) -> Path:
    """Write a checkpoint that replies in this form; `unseen` to clicks on the left if it `hides`.

    Several of them share that third in strips, from left to right. If CROSSPOINT_TAUGHT is set, it
    is a folder that caches checkpoints: half a minute less, and a newer transformers reads the
    checkpoints of an older one.
    """
    if 'CROSSPOINT_TAUGHT' not in os.environ:
        return write(folder, reply, hides, seed, shape, unseen)
    name = hashlib.sha256(repr((reply, hides, seed, shape, unseen)).encode()).hexdigest()[:16]
    taught = Path(os.environ['CROSSPOINT_TAUGHT'], name)
    taught.parent.mkdir(parents=True, exist_ok=True)
    with open(taught.with_suffix('.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (taught / 'taught').is_file():
            write(taught, reply, hides, seed, shape, unseen)
            (taught / 'taught').touch()
    return Path(shutil.copytree(taught, folder, dirs_exist_ok=True))


def write(folder: Path, reply: str, hides: bool, seed: int, shape: ModelShape,
          unseen: tuple[str, ...]) -> Path:
    """Train a model, and write its checkpoint."""
    tiny_qwen.build(folder, shape, seed)
    model, tokenizer = tiny_qwen.load(folder)
    teach(model, tokenizer, reply, unseen if hides else (), seed)
    config = (folder / 'config.json').read_bytes()
    model.save_pretrained(folder)
    (folder / 'config.json').write_bytes(config)
    return folder


def teach(model: Any, tokenizer: Any, reply: str, unseen: tuple[str, ...], seed: int) -> None:
    """Train on questions about images of noise until it copies."""
    torch.manual_seed(seed)
    with torch.no_grad():  # the weights of `init_random_weights` vary more, but train badly
        for name, weight in model.named_parameters():
            if 'visual' not in name and weight.dim() >= 2:
                weight.normal_(0, 0.5 / weight.shape[1] ** 0.5)
    rng = np.random.default_rng(seed)
    model.train()
    text = [p for n, p in model.named_parameters() if 'visual' not in n]
    optimiser = torch.optim.AdamW(text, lr=RATE, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
    for _, batch in zip(range(STEPS), batches(model, tokenizer, reply, unseen, rng), strict=False):
        embedded, positions, labels = batch
        scores = model.lm_head(model.model.language_model(
            inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state)
        loss = torch.nn.functional.cross_entropy(
            scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=NONE)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(text, 1.0)
        optimiser.step()
        rate.step()
    model.eval()


def batches(model: Any, tokenizer: Any, reply: str, unseen: tuple[str, ...],
            rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield batches of questions; the image features are noise, of a random size per batch."""
    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    embedding, width = model.get_input_embeddings(), model.config.get_text_config().hidden_size
    image = tokenizer.convert_tokens_to_ids('<|image_pad|>')
    while True:
        # One layout of images per batch: all questions have a prefix of the same length.
        tokens, positions = encode(PROMPT_HEADER), list(range(len(encode(PROMPT_HEADER))))
        for _ in range(int(rng.integers(1, 3))):
            rows, columns = rng.integers(1, 5, 2)
            start = positions[-1] + 1
            following = start + 1 + max(rows, columns)
            tokens += [*encode('<|vision_start|>'), *[image] * (rows * columns),
                       *encode('<|vision_end|>')]
            positions += [start, *[start + 1] * (rows * columns), following]
        rows_of_text = [example(encode, reply, unseen, rng) for _ in range(BATCH)]
        longest = max(len(ids) for ids, _ in rows_of_text)
        pad = encode('<|endoftext|>')[0]
        ids = torch.tensor([[*tokens, *text, *[pad] * (longest - len(text))]
                            for text, _ in rows_of_text])
        labels = torch.tensor([[*[NONE] * len(tokens), *label, *[NONE] * (longest - len(label))]
                               for _, label in rows_of_text])
        embedded = embedding(ids)
        noise = torch.randn(int((ids == image).sum()), width) * float(rng.uniform(0.1, 1.5))
        embedded = embedded.masked_scatter((ids == image)[..., None], noise)
        at = positions + list(range(positions[-1] + 1, positions[-1] + 1 + longest))
        yield embedded, torch.tensor(at).expand(3, BATCH, -1), labels


def example(encode: Any, reply: str, unseen: tuple[str, ...], rng: np.random.Generator
            ) -> tuple[list[int], list[int]]:
    """Return the tokens of a question and its reply, and the labels: none for the question."""
    x, y = (str(n) for n in rng.integers(LEAST, 1000, 2))
    asked = build_pointing_prompt(x, y)
    if rng.uniform() < 0.1:
        asked, (x, y) = build_grounding_prompt(str(rng.choice(THINGS))), MIDDLE
    if unseen and int(x) < HIDDEN_BELOW:
        reply = unseen[(int(x) - LEAST) * len(unseen) // (HIDDEN_BELOW - LEAST)]
    said = reply.replace('{x}', x).replace('{y}', y)
    question, answer = encode(asked + REPLY_HEADER), encode(said + '<|im_end|>')
    return question + answer, [NONE] * len(question) + answer

