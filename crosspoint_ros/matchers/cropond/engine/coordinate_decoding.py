"""Constrained decoding of two coordinates: greedy, or beam search giving p(x) and p(y|x)."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.matchers.cropond.coordinate_distribution import (
    CoordinateDistribution,
    ForcedTokenStats,
)
from crosspoint_ros.matchers.cropond.engine.reply_grammar import AllowedTokens, PartialNumber

# (tokens, parents) -> hidden states (n, hidden). Nodes are numbered in the order of the calls.
RunTokens = Callable[[Sequence[int], Sequence[int]], torch.Tensor]
# (hidden states before, within and after forced tokens; those tokens) -> their statistics.
ScoreForcedTokens = Callable[[torch.Tensor, tuple[int, ...]], ForcedTokenStats]
X, Y = 0, 1


@dataclass(frozen=True)
class BeamOptions:
    """Pruning of the beam search; pruned mass is missing from the distribution.

    beam_width: prefixes of a number that are kept per question and length. x_candidates: values of
    x for which y is decoded. min_prob: less probable prefixes are dropped. A model that knows the
    point needs few.
    """

    beam_width: int = 8
    x_candidates: int = 1
    min_prob: float = 1e-3


@dataclass(frozen=True)
class GreedyReply:
    """Two numbers, and their tokens."""

    numbers: tuple[int, int]
    tokens: tuple[int, ...]


def require_finite(logits: torch.Tensor) -> torch.Tensor:
    """Return the logits. Raises `Rejected` for NaN or infinity."""
    if not bool(torch.isfinite(logits).all()):
        raise Rejected(Code.MATCHER_FAILED, 'the model output contains NaN or infinity: the '
                       'weights are broken, or overflow in this number format')
    return logits


class NumberDecoder:
    """Common part of both decoders: reduced head, grammar, and node count of the token tree."""

    def __init__(self, run: RunTokens, head: torch.Tensor, allowed: AllowedTokens,
                 node_count: int) -> None:
        self._run, self._head, self._allowed = run, head, allowed
        self._reply_format = allowed.reply_format
        self._node_count = node_count

    def _compute_logprobs(self, hidden: torch.Tensor,
                          numbers: Sequence[tuple[PartialNumber, int]]) -> Array:
        """Log-probabilities (n, columns) among the allowed tokens."""
        logits = require_finite((hidden @ self._head.T).float())
        mask = torch.from_numpy(self._allowed.build_mask(numbers)).to(logits.device)
        logprobs = torch.log_softmax(logits.masked_fill(~mask, -torch.inf), -1)
        return np.asarray(logprobs.double().cpu().numpy())

    def _run_nodes(self, tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        self._node_count += len(tokens)
        return self._run(tokens, parents)

    def _run_chains(self, chains: Sequence[tuple[int, Sequence[int]]]
                    ) -> tuple[torch.Tensor, list[int]]:
        """Run a chain of tokens below each node, in one pass.

        Returns the hidden states of all, and the row of each chain's last token.
        """
        first, rows = self._node_count, []
        tokens: list[int] = []
        parents: list[int] = []
        for node, chain in chains:
            for token in chain:
                parents.append(node)
                node = first + len(tokens)
                tokens.append(token)
            rows.append(node - first)
        return self._run_nodes(tokens, parents), rows


@dataclass
class Hypothesis:
    """One partially decoded reply."""

    node: int
    axis: int = X
    number: PartialNumber = field(default_factory=PartialNumber)
    numbers: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class GreedyDecoder(NumberDecoder):
    """Takes the most probable token at each step."""

    def decode(self, hidden: torch.Tensor, last_nodes: Sequence[int]) -> list[GreedyReply]:
        """Complete the replies after these nodes, all in the same passes."""
        active = hypotheses = [Hypothesis(node) for node in last_nodes]
        while active:
            logprobs = self._compute_logprobs(hidden, [(h.number, h.axis) for h in active])
            pending = [self._extend(h, row) for h, row in zip(active, logprobs, strict=True)]
            active = [h for h in active if h.axis <= Y]
            if active:
                first = self._node_count
                states, rows = self._run_chains(list(zip(
                    [h.node for h in active], filter(None, pending), strict=True)))
                for hypothesis, row in zip(active, rows, strict=True):
                    hypothesis.node = first + row
                hidden = states[rows]
        return [GreedyReply((h.numbers[X], h.numbers[Y]), tuple(h.tokens)) for h in hypotheses]

    def _extend(self, hypothesis: Hypothesis, logprobs: Array) -> list[int]:
        """Append the best token; return the tokens to run next, none if the reply is complete."""
        best = int(logprobs.argmax())
        pending = []
        if best < 10:
            pending = [self._allowed.tokens[best]]
            hypothesis.number = hypothesis.number.append(best)
        if best >= 10 or hypothesis.number.is_complete(self._reply_format):
            hypothesis.numbers.append(hypothesis.number.to_int(self._reply_format))
            hypothesis.number, hypothesis.axis = PartialNumber(), hypothesis.axis + 1
            if hypothesis.axis == Y:
                pending = [*pending, *self._reply_format.between]
        hypothesis.tokens += pending
        return pending if hypothesis.axis <= Y else []


@dataclass(frozen=True, eq=False)
class Beam:
    """A prefix of a number. start: index of the position at which the number begins."""

    start: int
    question: int
    hidden: torch.Tensor
    node: int
    logprob: float
    number: PartialNumber = field(default_factory=PartialNumber)


@dataclass(frozen=True)
class Terminal:
    """The end of a number in the tree: its last node, and a last digit that was not run.

    hidden: at that node. logprob: of the end token, as included in the number's probability.
    """

    node: int
    pending: tuple[int, ...]
    hidden: torch.Tensor
    logprob: float = 0.0


class BeamDecoder(NumberDecoder):
    """Follows the probable prefixes, all of one length in one pass."""

    def __init__(self, run: RunTokens, head: torch.Tensor, allowed: AllowedTokens, node_count: int,
                 options: BeamOptions, score_forced_tokens: ScoreForcedTokens) -> None:
        super().__init__(run, head, allowed, node_count)
        self._options, self._score_forced_tokens = options, score_forced_tokens

    def decode(self, hidden: torch.Tensor, last_nodes: Sequence[int]
               ) -> list[tuple[CoordinateDistribution, ForcedTokenStats]]:
        """Return the distribution of the reply after each node, and statistics of its separator."""
        starts = [Beam(question, question, hidden[question], node, 0.0)
                  for question, node in enumerate(last_nodes)]
        p_x, terminals = self._decode_number(starts, X)
        candidates = [(question, int(x)) for question, p in enumerate(p_x)
                      for x in np.argsort(p)[::-1][:self._options.x_candidates]
                      if p[x] >= self._options.min_prob or p[x] == p.max()]
        starts, separators = self._start_second_number(candidates, p_x, terminals)
        p_y, _ = self._decode_number(starts, Y)
        return [self._join_axes(p_x[question], [
            (x, p, stats) for (q, x), p, stats in zip(candidates, p_y, separators, strict=True)
            if q == question]) for question in range(len(last_nodes))]

    @staticmethod
    def _join_axes(p_x: Array, candidates: Sequence[tuple[int, Array, ForcedTokenStats]]
                   ) -> tuple[CoordinateDistribution, ForcedTokenStats]:
        """Join p(x) with p(y|x) of the candidate values of x."""
        x, best, stats = max(candidates, key=lambda each: (float(each[1].max()), each[0]))
        p_format = min(math.exp(stats.logprob) * stats.p_digit, 1.0)
        p_y = np.sum([p for _, p, _ in candidates], axis=0)
        return CoordinateDistribution(p_x, p_y, (x, int(best.argmax())), p_format), stats

    def _start_second_number(self, candidates: Sequence[tuple[int, int]], p_x: Sequence[Array],
                             terminals: Sequence[dict[int, Terminal]]
                             ) -> tuple[list[Beam], list[ForcedTokenStats]]:
        """Run and score the separator after each candidate x, in one pass.

        The weights of one question's candidates add up to one.
        """
        first, ends = self._node_count, [terminals[question][x] for question, x in candidates]
        hidden, rows = self._run_chains([
            (end.node, (*end.pending, *self._reply_format.between)) for end in ends])
        total = np.zeros(len(p_x))
        for question, x in candidates:
            total[question] += p_x[question][x]
        beams = [Beam(start, question, hidden[row], first + row,
                      math.log(p_x[question][x] / total[question]))
                 for start, ((question, x), row) in enumerate(zip(candidates, rows, strict=True))]
        return beams, [self._score_separator(end, hidden[:row + 1])
                       for end, row in zip(ends, rows, strict=True)]

    def _score_separator(self, end: Terminal, hidden: torch.Tensor) -> ForcedTokenStats:
        """Score the text between the numbers; hidden: states up to its last token."""
        separator = self._reply_format.between
        states = hidden[-len(separator) - len(end.pending):]
        if not end.pending:
            states = torch.cat([end.hidden[None], states])
        stats = self._score_forced_tokens(states, separator)
        return replace(stats, logprob=stats.logprob - end.logprob)

    def _decode_number(self, starts: Sequence[Beam], axis: int
                       ) -> tuple[list[Array], list[dict[int, Terminal]]]:
        """Return for each start p(v), and where each value ends."""
        p = [np.zeros(self._reply_format.value_count) for _ in starts]
        terminals: list[dict[int, Terminal]] = [{} for _ in starts]
        beams = list(starts)
        while beams:
            logprobs = self._compute_logprobs(torch.stack([b.hidden for b in beams]),
                                              [(b.number, axis) for b in beams])
            longer = []
            for beam, row in zip(beams, logprobs, strict=True):
                self._add_end(beam, row[self._allowed.end_columns[axis]], p[beam.start],
                              terminals[beam.start])
                longer += self._expand(beam, row, p[beam.start], terminals[beam.start])
            beams = self._advance(longer)
        return p, terminals

    def _add_end(self, beam: Beam, end_logprobs: Array, p: Array, terminals: dict[int, Terminal]
                 ) -> None:
        if beam.number.can_end():
            p_end = float(np.logaddexp.reduce(end_logprobs))
            value = beam.number.to_int(self._reply_format)
            p[value] += math.exp(beam.logprob + p_end)
            terminals.setdefault(value, Terminal(beam.node, (), beam.hidden, p_end))

    def _expand(self, beam: Beam, logprobs: Array, p: Array, terminals: dict[int, Terminal]
                ) -> list[tuple[Beam, int]]:
        """Return the beam with each next digit and its token; complete numbers are added to p."""
        longer = []
        for digit in range(10 if beam.number.can_extend(self._reply_format) else 0):
            logprob, number = beam.logprob + float(logprobs[digit]), beam.number.append(digit)
            token = self._allowed.tokens[digit]
            if number.is_complete(self._reply_format):
                value = number.to_int(self._reply_format)
                p[value] += math.exp(logprob)
                terminals.setdefault(value, Terminal(beam.node, (token,), beam.hidden))
            else:
                longer.append((replace(beam, logprob=logprob, number=number), token))
        return longer

    def _advance(self, candidates: Sequence[tuple[Beam, int]]) -> list[Beam]:
        """Run the digits of the most probable beams of each question in one pass."""
        kept: list[tuple[Beam, int]] = []
        for question in dict.fromkeys(beam.question for beam, _ in candidates):
            own = sorted((c for c in candidates if c[0].question == question),
                         key=lambda c: c[0].logprob, reverse=True)
            kept += [c for rank, c in enumerate(own[:self._options.beam_width])
                     if rank == 0 or math.exp(c[0].logprob) >= self._options.min_prob]
        if not kept:
            return []
        first = self._node_count
        hidden = self._run_nodes([token for _, token in kept], [beam.node for beam, _ in kept])
        return [replace(beam, hidden=hidden[row], node=first + row)
                for row, (beam, _) in enumerate(kept)]
