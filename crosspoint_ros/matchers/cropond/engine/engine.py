"""Clicks answered by Qwen2.5-VL in a few small passes: cached images, a forced reply, digit trees.

Both images are prefilled once per frame pair. A click costs its question, whose reply is forced up
to the first digit in the same pass, and a few passes for the digits. What the model would have
said instead of the forced words is read off that pass, too.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.matchers.cropond.coordinate_distribution import Heard, Spread
from crosspoint_ros.matchers.cropond.engine.coordinate_decoding import (
    Greedy,
    GreedySearch,
    Pruning,
    SpreadSearch,
)
from crosspoint_ros.matchers.cropond.engine.cuda_graphs import FixedSteps
from crosspoint_ros.matchers.cropond.engine.decoder import Decoder
from crosspoint_ros.matchers.cropond.engine.kv_cache import Arena
from crosspoint_ros.matchers.cropond.engine.prefix_cache import Picture as Picture
from crosspoint_ros.matchers.cropond.engine.prefix_cache import Prefix, Prefixes
from crosspoint_ros.matchers.cropond.engine.reply_grammar import Alphabet, Choices, Form
from crosspoint_ros.matchers.cropond.engine.token_tree import TokenTree, packed
from crosspoint_ros.matchers.cropond.image_processor import MERGED_PX, TRAINED_MAX_PIXELS

ASKED = '<|im_end|>\n<|im_start|>assistant\n'
# Room beside the images, for questions and digits: some 110 tokens a click.
QUESTION_TOKENS = 2560


@dataclass(frozen=True)
class EngineOptions:
    """How much is computed and kept.

    pruning: what of the digits' tree is not followed. max_pairs: frame pairs whose prefix is
    remembered (a 3B model takes 37 kB a token of it). max_packed: questions answered in the same
    passes; more are answered in turns. question_tokens: room for them. cuda_graphs: record the
    passes, on a GPU.
    """

    max_pixels: int = TRAINED_MAX_PIXELS
    max_pairs: int = 4
    pruning: Pruning = field(default_factory=Pruning)
    max_packed: int = 16
    question_tokens: int = QUESTION_TOKENS
    cuda_graphs: bool = True
    fixed_shapes: bool = False  # on a CPU only tests want them

    @property
    def arena_tokens(self) -> int:
        """Room for two images of the largest size, and for questions."""
        return 2 * (self.max_pixels // MERGED_PX ** 2) + self.question_tokens


@dataclass(frozen=True)
class FreeReply:
    """What the model says when nothing is forced; logprob of all its tokens."""

    tokens: tuple[int, ...]
    text: str
    logprob: float


class Engine:
    """Asks a model about one or two pictures. Not for two threads at a time."""

    def __init__(self, model: Any, tokenizer: Any, options: EngineOptions | None = None) -> None:
        """Take a Qwen2_5_VLForConditionalGeneration, in evaluation mode on its device."""
        self.options = options = options or EngineOptions()
        self.alphabet = Alphabet(tokenizer)
        weight = model.get_input_embeddings().weight
        on_gpu = weight.device.type == 'cuda'
        arena = Arena(model.model.language_model.config, options.arena_tokens, weight.dtype,
                      weight.device)
        record = on_gpu and options.cuda_graphs
        self.decoder = Decoder(model, arena, FixedSteps(model, arena, record)
                               if record or options.fixed_shapes else None)
        self._head = model.lm_head
        self._prefixes = Prefixes(model, self.decoder, self.alphabet, options.max_pixels,
                                  options.max_pairs)
        self._small_heads: dict[tuple[int, ...], torch.Tensor] = {}

    @property
    def passes(self) -> int:
        """How many forward passes of the text model there have been."""
        return self.decoder.passes

    @property
    def encoded_pictures(self) -> int:
        """How many pictures the vision tower has encoded."""
        return self._prefixes.encoded_pictures

    @torch.inference_mode()
    def prepare(self, pictures: tuple[Picture, ...]) -> int:
        """Compute the prefix of one or two pictures, unless it is known; return its tokens."""
        return self._prefixes.load(pictures).ends[-1]

    @torch.inference_mode()
    def greedy(self, pictures: tuple[Picture, ...], questions: Sequence[str], form: Form
               ) -> list[tuple[Greedy, Heard]]:
        """Answer questions by the most probable digit each time, as plain decoding would."""
        choices = Choices(self.alphabet, form)
        answers: list[tuple[Greedy, Heard]] = []
        for asked in self._in_turns(pictures, questions, form):
            search = GreedySearch(asked.run, self._small_head(choices), choices, asked.nodes)
            found = search.search(asked.hidden, asked.last)
            answers += zip(found, asked.heard, strict=True)
        return answers

    @torch.inference_mode()
    def spreads(self, pictures: tuple[Picture, ...], questions: Sequence[str], form: Form
                ) -> list[tuple[Spread, Heard, Heard]]:
        """Answer questions by what the model says of every number, but for improbable ones.

        Beside each spread stands what was heard up to the first number, and between the two.
        """
        choices = Choices(self.alphabet, form)
        answers: list[tuple[Spread, Heard, Heard]] = []
        for asked in self._in_turns(pictures, questions, form):
            search = SpreadSearch(asked.run, self._small_head(choices), choices, asked.nodes,
                                  self.options.pruning, self._hear)
            found = search.search(asked.hidden, asked.last)
            answers += [(replace(spread, form=spread.form * before.number), before, between)
                        for (spread, between), before in zip(found, asked.heard, strict=True)]
        return answers

    @torch.inference_mode()
    def free(self, pictures: tuple[Picture, ...], question: str, max_tokens: int = 48) -> FreeReply:
        """Let the model reply as it likes, word by word, up to its end or so many tokens."""
        asked = self._ask(pictures, [question], ())
        hidden, node = asked.hidden, asked.last[0]
        tokens: list[int] = []
        logprob = 0.0
        while True:
            scores = torch.log_softmax(self._scores(hidden)[0], -1)
            token = int(scores.argmax())
            logprob += float(scores[token])
            if token in self.alphabet.ends:
                break
            tokens.append(token)
            if len(tokens) >= max_tokens:  # nobody asks what would follow
                break
            hidden = asked.run([token], [node])
            node = asked.nodes - 1
        return FreeReply(tuple(tokens), self.alphabet.decode(tokens), logprob)

    def _in_turns(self, pictures: tuple[Picture, ...], questions: Sequence[str], form: Form
                  ) -> Iterator[Asked]:
        """Ask as many questions at a time as may be packed."""
        for begin in range(0, len(questions), self.options.max_packed):
            yield self._ask(pictures, questions[begin:begin + self.options.max_packed],
                            form.before)

    def _ask(self, pictures: tuple[Picture, ...], questions: Sequence[str],
             forced: tuple[int, ...]) -> Asked:
        """Run all questions, and the words forced upon the replies, in one pass."""
        prefix = self._prefixes.load(pictures)
        asked = Asked(self.decoder, prefix)
        chains = [(*self.alphabet.encode(question + ASKED), *forced) for question in questions]
        tokens, parents, paths = packed(chains)
        hidden = asked.run(tokens, parents)
        asked.last = [path[-1] for path in paths]
        asked.hidden = hidden[asked.last]
        if forced:
            asked.heard = [self._hear(hidden[path[-1 - len(forced):]], forced) for path in paths]
        return asked

    def _hear(self, hidden: torch.Tensor, forced: tuple[int, ...]) -> Heard:
        """The state before a forced word tells what the model would have written there."""
        scores = torch.log_softmax(self._scores(hidden), -1)
        wanted = torch.tensor(forced, device=scores.device)
        logprob = float(scores[:-1].gather(1, wanted[:, None]).sum())
        first = scores.argmax(-1)
        number = float(scores[-1, list(self.alphabet.digits)].exp().sum())
        said = int(first[-1])
        instead = '' if said in self.alphabet.digits else self.alphabet.spelt(said)
        return Heard(logprob, bool((first[:-1] == wanted).all()), number, instead)

    def _scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits over the whole vocabulary. Raises `Rejected` for NaN."""
        scores = self._head(hidden).float()
        if not bool(torch.isfinite(scores).all()):
            raise Rejected(Code.MATCHER_FAILED, 'the model computed what is no number (NaN or '
                           'infinite): broken weights, or a number format it cannot take')
        return scores

    def _small_head(self, choices: Choices) -> torch.Tensor:
        """The rows of the output head that a reply can need: some dozens of 150 thousand."""
        if choices.tokens not in self._small_heads:
            rows = torch.tensor(choices.tokens, device=self._head.weight.device)
            self._small_heads[choices.tokens] = self._head.weight[rows].contiguous()
        return self._small_heads[choices.tokens]


class Asked:
    """Questions that hang on a prefix.

    hidden: (questions, hidden size) at the last token of each; last: the nodes of those tokens.
    """

    def __init__(self, decoder: Decoder, prefix: Prefix) -> None:
        self._decoder = decoder
        self._tokens, self._position = prefix.ends[-1], prefix.next_positions[-1]
        self._tree = TokenTree()
        self.hidden: torch.Tensor = torch.empty(0)
        self.last: list[int] = []
        self.heard: list[Heard] = []

    @property
    def nodes(self) -> int:
        """How many tokens hang on the prefix."""
        return len(self._tree)

    def run(self, tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        """Append tokens below their parents in one pass; their hidden states (n, hidden)."""
        return self._decoder.step(self._tree.grow(tokens, parents), self._tokens, self._position)
