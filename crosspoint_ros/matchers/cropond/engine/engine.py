"""Answers clicks with a Qwen-VL in few passes: cached images, forced replies, digit trees.

Both images are prefilled once per frame pair. A click costs one pass for its question and the
forced reply up to the first digit, and a few for the digits. What the model would have written
instead of the forced tokens is read from the same pass.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from crosspoint_ros.matchers.cropond.coordinate_distribution import (
    CoordinateDistribution,
    ForcedTokenStats,
)
from crosspoint_ros.matchers.cropond.engine.coordinate_decoding import (
    BeamDecoder,
    BeamOptions,
    GreedyDecoder,
    GreedyReply,
    require_finite,
)
from crosspoint_ros.matchers.cropond.engine.decoder import Decoder
from crosspoint_ros.matchers.cropond.engine.kv_cache import StaticKVCache
from crosspoint_ros.matchers.cropond.engine.prefix_cache import Prefix, PrefixCache
from crosspoint_ros.matchers.cropond.engine.reply_grammar import (
    AllowedTokens,
    ReplyFormat,
    ReplyTokenizer,
)
from crosspoint_ros.matchers.cropond.engine.token_tree import TokenTree, pack_sequences
from crosspoint_ros.matchers.cropond.image_processor import (
    QWEN2_5_VL,
    TRAINED_MAX_PIXELS,
    ImageInput,
    PreprocessorConfig,
)

QUESTION_TOKENS = 2560  # for questions and digits: about 110 tokens a click
Images = tuple[ImageInput, ...]


@dataclass(frozen=True)
class EngineOptions:
    """Limits of the engine, and the preprocessor of its model.

    max_pairs: frame pairs whose prefix is cached (37 kB a token for a 3B model). max_questions:
    questions decoded in the same passes. question_tokens: KV cache for them.
    """

    max_pixels: int = TRAINED_MAX_PIXELS
    max_pairs: int = 4
    beam: BeamOptions = field(default_factory=BeamOptions)
    max_questions: int = 16
    question_tokens: int = QUESTION_TOKENS
    preprocessor: PreprocessorConfig = QWEN2_5_VL

    def __post_init__(self) -> None:
        if self.max_pixels < self.preprocessor.min_pixels:
            raise ValueError(f'max_pixels must be {self.preprocessor.min_pixels} or more for this '
                             f'model, got {self.max_pixels}')

    @property
    def cache_tokens(self) -> int:
        """Capacity of the KV cache: two images of the maximum size, and questions."""
        return (2 * (self.max_pixels // self.preprocessor.token_px ** 2)
                + self.question_tokens)


@dataclass(frozen=True)
class FreeReply:
    """An unconstrained reply."""

    tokens: tuple[int, ...]
    text: str


class Engine:
    """Asks a model about one or two images. Not thread-safe."""

    def __init__(self, model: Any, tokenizer: Any, options: EngineOptions | None = None) -> None:
        """model: of a class of `ARCHITECTURES`, in evaluation mode, on its device."""
        self.options = options = options or EngineOptions()
        self.tokenizer = ReplyTokenizer(tokenizer)
        weight = model.get_input_embeddings().weight
        kv_cache = StaticKVCache(model.model.language_model.config, options.cache_tokens,
                                 weight.dtype, weight.device)
        self.decoder = Decoder(model, kv_cache)
        self._head = model.lm_head
        self._prefix_cache = PrefixCache(model, self.decoder, self.tokenizer, options.max_pixels,
                                         options.preprocessor, options.max_pairs)
        self._reduced_heads: dict[tuple[int, ...], torch.Tensor] = {}

    @property
    def passes(self) -> int:
        """Number of forward passes of the text model so far."""
        return self.decoder.passes

    @property
    def vision_encodes(self) -> int:
        """Number of images encoded by the vision tower so far."""
        return self._prefix_cache.vision_encodes

    @torch.inference_mode()
    def prefill(self, images: Images) -> int:
        """Compute the prefix of one or two images, unless cached; return its length in tokens."""
        return self._prefix_cache.load(images).lengths[-1]

    @torch.inference_mode()
    def decode_greedy(self, images: Images, questions: Sequence[str], reply_format: ReplyFormat
                      ) -> list[tuple[GreedyReply, ForcedTokenStats]]:
        """Answer each question with the most probable digits, as plain decoding would."""
        allowed = AllowedTokens(self.tokenizer, reply_format)
        replies: list[tuple[GreedyReply, ForcedTokenStats]] = []
        for batch in self._iter_batches(images, questions, reply_format):
            decoder = GreedyDecoder(batch.run, self._reduced_head(allowed), allowed,
                                    batch.node_count)
            replies += zip(decoder.decode(batch.hidden, batch.last_nodes), batch.forced_stats,
                           strict=True)
        return replies

    @torch.inference_mode()
    def decode_distributions(self, images: Images, questions: Sequence[str],
                             reply_format: ReplyFormat) -> list[
                                 tuple[CoordinateDistribution, ForcedTokenStats, ForcedTokenStats]]:
        """Answer each question with the distribution of its two numbers.

        With it come the statistics of the tokens forced before the first number, and between both.
        """
        allowed = AllowedTokens(self.tokenizer, reply_format)
        replies = []
        for batch in self._iter_batches(images, questions, reply_format):
            decoder = BeamDecoder(batch.run, self._reduced_head(allowed), allowed,
                                  batch.node_count, self.options.beam, self._score_forced_tokens)
            for (distribution, between), before in zip(
                    decoder.decode(batch.hidden, batch.last_nodes), batch.forced_stats,
                    strict=True):
                p_format = distribution.p_format * before.p_digit
                replies.append((replace(distribution, p_format=p_format), before, between))
        return replies

    @torch.inference_mode()
    def generate(self, images: Images, question: str, max_tokens: int = 48) -> FreeReply:
        """Decode an unconstrained reply greedily, up to its end or `max_tokens`."""
        batch = self._run_questions(images, [question], ())
        hidden, node = batch.hidden, batch.last_nodes[0]
        tokens: list[int] = []
        while (token := int(self._compute_logits(hidden)[0].argmax())
               ) not in self.tokenizer.eos_tokens:
            tokens.append(token)
            if len(tokens) >= max_tokens:  # no pass for a token that is not needed
                break
            hidden = batch.run([token], [node])
            node = batch.node_count - 1
        return FreeReply(tuple(tokens), self.tokenizer.decode(tokens))

    def _iter_batches(self, images: Images, questions: Sequence[str], reply_format: ReplyFormat
                      ) -> Iterator[QuestionBatch]:
        size = self.options.max_questions
        for start in range(0, len(questions), size):
            yield self._run_questions(images, questions[start:start + size], reply_format.before)

    def _run_questions(self, images: Images, questions: Sequence[str], forced: tuple[int, ...]
                       ) -> QuestionBatch:
        """Run all questions, and the forced beginning of their replies, in one pass."""
        batch = QuestionBatch(self.decoder, self._prefix_cache.load(images))
        tokens, parents, paths = pack_sequences([
            (*self.tokenizer.encode(question + self.tokenizer.reply_header), *forced)
            for question in questions])
        hidden = batch.run(tokens, parents)
        batch.last_nodes = [path[-1] for path in paths]
        batch.hidden = hidden[batch.last_nodes]
        if forced:
            batch.forced_stats = [
                self._score_forced_tokens(hidden[path[-1 - len(forced):]], forced)
                for path in paths]
        return batch

    def _score_forced_tokens(self, hidden: torch.Tensor, forced: tuple[int, ...]
                             ) -> ForcedTokenStats:
        """Compare forced tokens with the model's own choices in the states before them."""
        logprobs = torch.log_softmax(self._compute_logits(hidden), -1)
        expected = torch.tensor(forced, device=logprobs.device)
        preferred, digits = logprobs.argmax(-1), self.tokenizer.digits
        following = int(preferred[-1])
        return ForcedTokenStats(
            logprob=float(logprobs[:-1].gather(1, expected[:, None]).sum()),
            is_greedy=bool((preferred[:-1] == expected).all()),
            p_digit=float(logprobs[-1, list(digits)].exp().sum()),
            preferred_token='' if following in digits else self.tokenizer.token_text(following))

    def _compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return require_finite(self._head(hidden).float())

    def _reduced_head(self, allowed: AllowedTokens) -> torch.Tensor:
        """Rows of the output head for the allowed tokens: some dozens of 150 thousand."""
        if allowed.tokens not in self._reduced_heads:
            rows = torch.tensor(allowed.tokens, device=self._head.weight.device)
            self._reduced_heads[allowed.tokens] = self._head.weight[rows].contiguous()
        return self._reduced_heads[allowed.tokens]


class QuestionBatch:
    """Questions after a common prefix.

    hidden: (questions, hidden size) at the last token of each question; last_nodes: their nodes.
    """

    def __init__(self, decoder: Decoder, prefix: Prefix) -> None:
        self._decoder = decoder
        self._prefix_length, self._first_position = prefix.lengths[-1], prefix.next_positions[-1]
        self._tree = TokenTree()
        self.hidden: torch.Tensor = torch.empty(0)
        self.last_nodes: list[int] = []
        self.forced_stats: list[ForcedTokenStats] = []

    @property
    def node_count(self) -> int:
        """Number of tokens after the prefix."""
        return len(self._tree)

    def run(self, tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        """Append tokens below their parents in one pass; return their states (n, hidden)."""
        return self._decoder.run_step(self._tree.extend(tokens, parents), self._prefix_length,
                                      self._first_position)
