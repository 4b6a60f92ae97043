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
from crosspoint_ros.matchers.cropond.coordinate_distribution import ForcedTokenStats, CoordinateDistribution
from crosspoint_ros.matchers.cropond.engine.coordinate_decoding import (
    GreedyReply,
    GreedyDecoder,
    BeamOptions,
    BeamDecoder,
)
from crosspoint_ros.matchers.cropond.engine.cuda_graphs import CudaGraphRunner
from crosspoint_ros.matchers.cropond.engine.decoder import Decoder
from crosspoint_ros.matchers.cropond.engine.kv_cache import StaticKVCache
from crosspoint_ros.matchers.cropond.engine.prefix_cache import ImageInput as ImageInput
from crosspoint_ros.matchers.cropond.engine.prefix_cache import Prefix, PrefixCache
from crosspoint_ros.matchers.cropond.engine.reply_grammar import ReplyTokenizer, AllowedTokens, ReplyFormat
from crosspoint_ros.matchers.cropond.engine.token_tree import TokenTree, pack_sequences
from crosspoint_ros.matchers.cropond.image_processor import TOKEN_PX, TRAINED_MAX_PIXELS

ASSISTANT_HEADER = '<|im_end|>\n<|im_start|>assistant\n'
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
    beam: BeamOptions = field(default_factory=BeamOptions)
    max_questions: int = 16
    question_tokens: int = QUESTION_TOKENS
    cuda_graphs: bool = True
    static_shapes: bool = False  # on a CPU only tests want them

    @property
    def cache_tokens(self) -> int:
        """Room for two images of the largest size, and for questions."""
        return 2 * (self.max_pixels // TOKEN_PX ** 2) + self.question_tokens


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
        self.tokenizer = ReplyTokenizer(tokenizer)
        weight = model.get_input_embeddings().weight
        on_gpu = weight.device.type == 'cuda'
        kv_cache = StaticKVCache(model.model.language_model.config, options.cache_tokens, weight.dtype,
                      weight.device)
        capture = on_gpu and options.cuda_graphs
        self.decoder = Decoder(model, kv_cache, CudaGraphRunner(model, kv_cache, capture)
                               if capture or options.static_shapes else None)
        self._head = model.lm_head
        self._prefix_cache = PrefixCache(model, self.decoder, self.tokenizer, options.max_pixels,
                                  options.max_pairs)
        self._reduced_heads: dict[tuple[int, ...], torch.Tensor] = {}

    @property
    def passes(self) -> int:
        """How many forward passes of the text model there have been."""
        return self.decoder.passes

    @property
    def vision_encodes(self) -> int:
        """How many pictures the vision tower has encoded."""
        return self._prefix_cache.vision_encodes

    @torch.inference_mode()
    def prefill(self, images: tuple[ImageInput, ...]) -> int:
        """Compute the prefix of one or two pictures, unless it is known; return its tokens."""
        return self._prefix_cache.load(images).eos_tokens[-1]

    @torch.inference_mode()
    def decode_greedy(self, images: tuple[ImageInput, ...], questions: Sequence[str], reply_format: ReplyFormat
               ) -> list[tuple[GreedyReply, ForcedTokenStats]]:
        """Answer questions by the most probable digit each time, as plain decoding would."""
        allowed_tokens = AllowedTokens(self.tokenizer, reply_format)
        replies: list[tuple[GreedyReply, ForcedTokenStats]] = []
        for batch in self._iter_batches(images, questions, reply_format):
            decoder = GreedyDecoder(batch.run, self._reduced_head(allowed_tokens), allowed_tokens, batch.node_count)
            decoded = decoder.decode(batch.hidden, batch.last_nodes)
            replies += zip(decoded, batch.forced_stats, strict=True)
        return replies

    @torch.inference_mode()
    def decode_distributions(self, images: tuple[ImageInput, ...], questions: Sequence[str], reply_format: ReplyFormat
                ) -> list[tuple[CoordinateDistribution, ForcedTokenStats, ForcedTokenStats]]:
        """Answer questions by what the model says of every number, but for improbable ones.

        Beside each spread stands what was heard up to the first number, and between the two.
        """
        allowed_tokens = AllowedTokens(self.tokenizer, reply_format)
        replies: list[tuple[CoordinateDistribution, ForcedTokenStats, ForcedTokenStats]] = []
        for batch in self._iter_batches(images, questions, reply_format):
            decoder = BeamDecoder(batch.run, self._reduced_head(allowed_tokens), allowed_tokens, batch.node_count,
                                  self.options.beam, self._score_forced_tokens)
            decoded = decoder.decode(batch.hidden, batch.last_nodes)
            replies += [(replace(distribution, form=distribution.p_format * before.p_digit), before, between)
                        for (distribution, between), before in zip(decoded, batch.forced_stats, strict=True)]
        return replies

    @torch.inference_mode()
    def generate(self, images: tuple[ImageInput, ...], question: str, max_tokens: int = 48) -> FreeReply:
        """Let the model reply as it likes, word by word, up to its end or so many tokens."""
        batch = self._run_questions(images, [question], ())
        hidden, node = batch.hidden, batch.last_nodes[0]
        tokens: list[int] = []
        logprob = 0.0
        while True:
            logprobs = torch.log_softmax(self._compute_logits(hidden)[0], -1)
            token = int(logprobs.argmax())
            logprob += float(logprobs[token])
            if token in self.tokenizer.eos_tokens:
                break
            tokens.append(token)
            if len(tokens) >= max_tokens:  # nobody asks what would follow
                break
            hidden = batch.run([token], [node])
            node = batch.node_count - 1
        return FreeReply(tuple(tokens), self.tokenizer.decode(tokens), logprob)

    def _iter_batches(self, images: tuple[ImageInput, ...], questions: Sequence[str], reply_format: ReplyFormat
                  ) -> Iterator[QuestionBatch]:
        """Ask as many questions at a time as may be packed."""
        for begin in range(0, len(questions), self.options.max_questions):
            yield self._run_questions(images, questions[begin:begin + self.options.max_questions],
                            reply_format.before)

    def _run_questions(self, images: tuple[ImageInput, ...], questions: Sequence[str],
             forced: tuple[int, ...]) -> QuestionBatch:
        """Run all questions, and the words forced upon the replies, in one pass."""
        prefix = self._prefix_cache.load(images)
        batch = QuestionBatch(self.decoder, prefix)
        chains = [(*self.tokenizer.encode(question + ASSISTANT_HEADER), *forced) for question in questions]
        tokens, parents, paths = pack_sequences(chains)
        hidden = batch.run(tokens, parents)
        batch.last_nodes = [path[-1] for path in paths]
        batch.hidden = hidden[batch.last_nodes]
        if forced:
            batch.forced_stats = [self._score_forced_tokens(hidden[path[-1 - len(forced):]], forced) for path in paths]
        return batch

    def _score_forced_tokens(self, hidden: torch.Tensor, forced: tuple[int, ...]) -> ForcedTokenStats:
        """The state before a forced word tells what the model would have written there."""
        logprobs = torch.log_softmax(self._compute_logits(hidden), -1)
        expected = torch.tensor(forced, device=logprobs.device)
        logprob = float(logprobs[:-1].gather(1, expected[:, None]).sum())
        preferred = logprobs.argmax(-1)
        p_digit = float(logprobs[-1, list(self.tokenizer.digits)].exp().sum())
        next_token = int(preferred[-1])
        preferred_token = '' if next_token in self.tokenizer.digits else self.tokenizer.token_text(next_token)
        return ForcedTokenStats(logprob, bool((preferred[:-1] == expected).all()), p_digit, preferred_token)

    def _compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits over the whole vocabulary. Raises `Rejected` for NaN."""
        logits = self._head(hidden).float()
        if not bool(torch.isfinite(logits).all()):
            raise Rejected(Code.MATCHER_FAILED, 'the model computed what is no number (NaN or '
                           'infinite): broken weights, or a number format it cannot take')
        return logits

    def _reduced_head(self, allowed_tokens: AllowedTokens) -> torch.Tensor:
        """The rows of the output head that a reply can need: some dozens of 150 thousand."""
        if allowed_tokens.tokens not in self._reduced_heads:
            rows = torch.tensor(allowed_tokens.tokens, device=self._head.weight.device)
            self._reduced_heads[allowed_tokens.tokens] = self._head.weight[rows].contiguous()
        return self._reduced_heads[allowed_tokens.tokens]


class QuestionBatch:
    """Questions that hang on a prefix.

    hidden: (questions, hidden size) at the last token of each; last: the nodes of those tokens.
    """

    def __init__(self, decoder: Decoder, prefix: Prefix) -> None:
        self._decoder = decoder
        self._prefix_length, self._first_position = prefix.eos_tokens[-1], prefix.next_positions[-1]
        self._tree = TokenTree()
        self.hidden: torch.Tensor = torch.empty(0)
        self.last_nodes: list[int] = []
        self.forced_stats: list[ForcedTokenStats] = []

    @property
    def node_count(self) -> int:
        """How many tokens hang on the prefix."""
        return len(self._tree)

    def run(self, tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        """Append tokens below their parents in one pass; their hidden states (n, hidden)."""
        return self._decoder.run_step(self._tree.extend(tokens, parents), self._prefix_length, self._first_position)
