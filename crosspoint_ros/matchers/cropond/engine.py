"""Clicks answered by Qwen2.5-VL in a few small passes: cached images, a forced reply, digit trees.

Both images are prefilled once per frame pair. A click costs its question, whose reply is forced up
to the first digit in the same pass, and a few passes for the digits. What the model would have
said instead of the forced words is read off that pass, too.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.matchers.cropond.answer import Spread
from crosspoint_ros.matchers.cropond.arena import Arena
from crosspoint_ros.matchers.cropond.decoder import Decoder
from crosspoint_ros.matchers.cropond.digits import Greedy, GreedySearch, SpreadSearch
from crosspoint_ros.matchers.cropond.grammar import Alphabet, Choices, Form
from crosspoint_ros.matchers.cropond.pixels import TRAINED_MAX_PIXELS
from crosspoint_ros.matchers.cropond.prefix import Picture as Picture
from crosspoint_ros.matchers.cropond.prefix import Prefix, Prefixes
from crosspoint_ros.matchers.cropond.tree import ROOT, TokenTree

ASKED = '<|im_end|>\n<|im_start|>assistant\n'
# One image of the cap is 768 tokens; what is left is for questions and digits.
ARENA_TOKENS = 4096


@dataclass(frozen=True)
class EngineOptions:
    """How much is computed and kept.

    max_branches: how many beginnings of a number are followed at a time, max_values: how many
    values of x the y is asked for; least_weight: a branch less probable is left out. A model that
    knows the place needs few of each. max_pairs: frame pairs whose prefix is remembered (a 3B
    model takes 37 kB a token of it). cuda_graphs: record the passes, on a GPU.
    """

    max_pixels: int = TRAINED_MAX_PIXELS
    max_pairs: int = 4
    max_branches: int = 8
    max_values: int = 2
    least_weight: float = 1e-3
    arena_tokens: int = ARENA_TOKENS
    cuda_graphs: bool = True
    fixed_shapes: bool = False  # on a CPU only tests want them


@dataclass(frozen=True)
class TemplateCheck:
    """Whether the model itself would have written the forced words.

    is_greedy: each of them was its first choice, so that forcing them changed nothing.
    """

    logprob: float
    is_greedy: bool


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
        self.decoder = Decoder(model, arena, (on_gpu and options.cuda_graphs)
                               or options.fixed_shapes, capture=on_gpu and options.cuda_graphs)
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
               ) -> list[tuple[Greedy, TemplateCheck]]:
        """Answer questions by the most probable digit each time, as plain decoding would."""
        asked = self._ask(pictures, questions, form.before)
        choices = Choices(self.alphabet, form)
        search = GreedySearch(asked.run, self._small_head(choices), choices)
        return list(zip(search.search(asked.hidden, asked.last), asked.checks, strict=True))

    @torch.inference_mode()
    def spreads(self, pictures: tuple[Picture, ...], questions: Sequence[str], form: Form
                ) -> list[tuple[Spread, TemplateCheck]]:
        """Answer questions by what the model says of every number, but for improbable ones."""
        asked = self._ask(pictures, questions, form.before)
        choices = Choices(self.alphabet, form)
        search = SpreadSearch(asked.run, self._small_head(choices), choices,
                              self.options.max_branches, self.options.max_values,
                              self.options.least_weight)
        return list(zip(search.search(asked.hidden, asked.last), asked.checks, strict=True))

    @torch.inference_mode()
    def free(self, pictures: tuple[Picture, ...], question: str, max_tokens: int = 48) -> FreeReply:
        """Let the model reply as it likes, word by word, up to its end or so many tokens."""
        asked = self._ask(pictures, [question], ())
        hidden, node = asked.hidden, asked.last[0]
        tokens: list[int] = []
        logprob = 0.0
        while len(tokens) < max_tokens:
            scores = torch.log_softmax(self._scores(hidden)[0], -1)
            token = int(scores.argmax())
            logprob += float(scores[token])
            if token in self.alphabet.ends:
                break
            tokens.append(token)
            hidden = asked.run([token], [node])
            node = asked.nodes - 1
        return FreeReply(tuple(tokens), self.alphabet.decode(tokens), logprob)

    def _ask(self, pictures: tuple[Picture, ...], questions: Sequence[str],
             forced: tuple[int, ...]) -> Asked:
        """Run all questions, and the words forced upon the replies, in one pass."""
        prefix = self._prefixes.load(pictures)
        asked = Asked(self.decoder, prefix)
        tokens: list[int] = []
        parents: list[int] = []
        starts: list[int] = []
        for question in questions:
            own = self.alphabet.encode(question + ASKED)
            starts.append(len(tokens) + len(own) - 1)
            for number, token in enumerate((*own, *forced)):
                parents.append(ROOT if number == 0 else len(tokens) - 1)
                tokens.append(token)
        hidden = asked.run(tokens, parents)
        asked.last = [start + len(forced) for start in starts]
        asked.hidden = hidden[asked.last]
        asked.checks = [self._check(hidden[start:start + len(forced)], forced) for start in starts]
        return asked

    def _check(self, hidden: torch.Tensor, forced: tuple[int, ...]) -> TemplateCheck:
        if not forced:
            return TemplateCheck(0.0, True)
        scores = torch.log_softmax(self._scores(hidden), -1)
        wanted = torch.tensor(forced, device=scores.device)
        logprob = float(scores.gather(1, wanted[:, None]).sum())
        return TemplateCheck(logprob, bool((scores.argmax(-1) == wanted).all()))

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
        self.checks: list[TemplateCheck] = []

    @property
    def nodes(self) -> int:
        """How many tokens hang on the prefix."""
        return len(self._tree)

    def run(self, tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        """Append tokens below their parents in one pass; their hidden states (n, hidden)."""
        return self._decoder.step(self._tree.grow(tokens, parents), self._tokens, self._position)
