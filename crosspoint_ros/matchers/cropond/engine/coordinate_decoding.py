"""Digit by digit through the two numbers of a reply: the most probable way, or all that matter."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.matchers.cropond.coordinate_distribution import ForcedTokenStats, CoordinateDistribution
from crosspoint_ros.matchers.cropond.engine.reply_grammar import AllowedTokens, PartialNumber, count_values

# Tokens and their parents in, hidden states out; numbers of nodes are given in the order of calls.
RunTokens = Callable[[Sequence[int], Sequence[int]], torch.Tensor]
# Hidden states before, among and behind forced words, and those words: what the model says there.
ScoreForcedTokens = Callable[[torch.Tensor, tuple[int, ...]], ForcedTokenStats]
X, Y = 0, 1


@dataclass(frozen=True)
class BeamOptions:
    """What of the tree of digits is not followed, and so is missing from a spread.

    max_branches: so many beginnings of a number are followed at a time, the most probable ones.
    max_values: the y is asked for so many values of x. least_weight: a beginning less probable is
    left out. A model that knows the place needs few of each.
    """

    beam_width: int = 8
    x_candidates: int = 1
    min_prob: float = 1e-3


@dataclass(frozen=True)
class GreedyReply:
    """Two numbers, the tokens that wrote them, and their log-probability among those allowed."""

    numbers: tuple[int, int]
    tokens: tuple[int, ...]
    logprob: float


class NumberDecoder:
    """What both searches share: the small head, the grammar, and the count of the tree's nodes."""

    def __init__(self, run: RunTokens, head: torch.Tensor, allowed_tokens: AllowedTokens, node_count: int) -> None:
        self._run, self._head, self._allowed_tokens, self._reply_format = run, head, allowed_tokens, allowed_tokens.form
        self._node_count = node_count

    def _compute_logprobs(self, hidden: torch.Tensor, prefixes: Sequence[tuple[PartialNumber, int]]) -> Array:
        """Log-probabilities (n, columns) among the tokens that may follow. Refuses NaN."""
        logits = (hidden @ self._head.T).float()
        if not bool(torch.isfinite(logits).all()):
            raise Rejected(Code.MATCHER_FAILED, 'the model computed what is no number (NaN or '
                           'infinite): broken weights, or a number format it cannot take')
        allowed = torch.from_numpy(self._allowed_tokens.build_mask(prefixes)).to(logits.device)
        logprobs = torch.log_softmax(logits.masked_fill(~allowed, -torch.inf), -1)
        return np.asarray(logprobs.double().cpu().numpy())

    def _run_nodes(self, tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        self._node_count += len(tokens)
        return self._run(tokens, parents)


@dataclass
class Hypothesis:
    """One reply as far as it is written."""

    node: int
    axis: int = X
    number: PartialNumber = field(default_factory=PartialNumber)
    numbers: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0


class GreedyDecoder(NumberDecoder):
    """Takes the most probable token each time."""

    def decode(self, hidden: torch.Tensor, last: Sequence[int]) -> list[GreedyReply]:
        """Complete the replies whose last nodes these are, all in the same passes."""
        hypotheses = [Hypothesis(node) for node in last]
        active = hypotheses
        while active:
            logprobs = self._compute_logprobs(hidden, [(way.number, way.axis) for way in active])
            feeds = [self._extend(way, row) for way, row in
                     zip(active, logprobs, strict=True)]
            active = [way for way in active if way.axis <= Y]
            hidden = self._run_pending(active, [feed for feed in feeds if feed])
        return [GreedyReply((way.numbers[X], way.numbers[Y]), tuple(way.tokens), way.logprob)
                for way in hypotheses]

    def _extend(self, hypothesis: Hypothesis, logprobs: Array) -> list[int]:
        """Take the best; return the tokens to run next, none if the reply is complete."""
        best = int(logprobs.argmax())
        hypothesis.logprob += float(logprobs[best])
        pending = []
        if best < 10:
            pending = [self._allowed_tokens.tokens[best]]
            hypothesis.number = hypothesis.number.append(best)
        if best >= 10 or hypothesis.number.is_complete(self._reply_format):
            hypothesis.numbers.append(hypothesis.number.value(self._reply_format))
            hypothesis.number, hypothesis.axis = PartialNumber(), hypothesis.axis + 1
            if hypothesis.axis == Y:
                pending = [*pending, *self._reply_format.between]
        hypothesis.tokens += pending
        return pending if hypothesis.axis <= Y else []

    def _run_pending(self, hypotheses: Sequence[Hypothesis], pending: Sequence[Sequence[int]]) -> torch.Tensor:
        tokens: list[int] = []
        parents: list[int] = []
        for way, feed in zip(hypotheses, pending, strict=True):
            for token in feed:
                parents.append(way.node)
                way.node = self._node_count + len(tokens)
                tokens.append(token)
        if not tokens:
            return torch.empty(0)
        begin = self._node_count
        return self._run_nodes(tokens, parents)[[way.node - begin for way in hypotheses]]


@dataclass(frozen=True, eq=False)
class Beam:
    """The beginning of a number: its hidden state, node and log-weight.

    start: where it began, question: what it replies to.
    """

    start_index: int
    question_index: int
    hidden: torch.Tensor
    node: int
    logprob: float
    number: PartialNumber = field(default_factory=PartialNumber)


@dataclass(frozen=True)
class Terminal:
    """Where a number ends in the tree: its last node, and the digit that has yet to be run.

    hidden: at that node. logprob: what of its ending is in the number's probability already.
    """

    node: int
    pending: tuple[int, ...]
    hidden: torch.Tensor
    logprob: float = 0.0


class BeamDecoder(NumberDecoder):
    """Follows the beginnings that matter, all of a length in one pass."""

    def __init__(self, run: RunTokens, head: torch.Tensor, allowed_tokens: AllowedTokens, node_count: int,
                 options: BeamOptions, score_forced_tokens: ScoreForcedTokens) -> None:
        super().__init__(run, head, allowed_tokens, node_count)
        self._options, self._score_forced_tokens = options, score_forced_tokens

    def decode(self, hidden: torch.Tensor, last: Sequence[int]) -> list[tuple[CoordinateDistribution, ForcedTokenStats]]:
        """Weigh the numbers of the replies whose last nodes these are.

        What is heard is about the words between the numbers, and the second one's beginning.
        """
        starts = [Beam(question, question, hidden[question], node, 0.0)
                  for question, node in enumerate(last)]
        p_x, terminals = self._decode_number(starts, X)
        candidates = [(reply, int(v)) for reply, p in enumerate(p_x)
                  for v in np.argsort(p)[::-1][:self._options.x_candidates]
                  if p[v] >= self._options.min_prob or p[v] == p.max()]
        seconds, separator_stats = self._start_second_number(candidates, p_x, terminals)
        p_y, _ = self._decode_number(seconds, Y)
        return [self._join_axes(reply, p_x[reply], candidates, p_y, separator_stats) for reply in range(len(last))]

    @staticmethod
    def _join_axes(question: int, p_x: Array, candidates: Sequence[tuple[int, int]], p_y: Sequence[Array],
                separator_stats: Sequence[ForcedTokenStats]) -> tuple[CoordinateDistribution, ForcedTokenStats]:
        """Join p(x) with p(y | x), which was asked for the most probable x alone."""
        own = [(v, p, said) for (whose, v), p, said in zip(candidates, p_y, separator_stats, strict=True)
                if whose == question]
        x, best, said = max(own, key=lambda each: (float(each[1].max()), each[0]))
        p_format = min(math.exp(said.logprob) * said.p_digit, 1.0)
        p_y_total = np.sum([p for _, p, _ in own], axis=0)
        return CoordinateDistribution(p_x, p_y_total, (x, int(best.argmax())), p_format), said

    def _start_second_number(self, candidates: Sequence[tuple[int, int]], p_x: Sequence[Array],
                 terminals: Sequence[dict[int, Terminal]]) -> tuple[list[Beam], list[ForcedTokenStats]]:
        """Run what stands between the numbers, for each chosen x, in one pass; hear it.

        The weights of the chosen x of one question add up to one.
        """
        tokens: list[int] = []
        parents: list[int] = []
        last_nodes: list[int] = []
        for reply, v in candidates:
            end = terminals[reply][v]
            node = end.node
            for token in (*end.pending, *self._reply_format.between):
                parents.append(node)
                node = self._node_count + len(tokens)
                tokens.append(token)
            last_nodes.append(node)
        begin = self._node_count
        hidden = self._run_nodes(tokens, parents)
        total = np.zeros(len(p_x))
        for reply, v in candidates:
            total[reply] += p_x[reply][v]
        beams = [Beam(number, reply, hidden[node - begin], node,
                           math.log(p_x[reply][v] / total[reply]))
                    for number, ((reply, v), node) in enumerate(zip(candidates, last_nodes, strict=True))]
        return beams, [self._score_separator(terminals[reply][v], hidden[:node - begin + 1])
                          for (reply, v), node in zip(candidates, last_nodes, strict=True)]

    def _score_separator(self, terminal: Terminal, hidden: torch.Tensor) -> ForcedTokenStats:
        """What the model says of the words between; hidden: up to the last of them."""
        separator = self._reply_format.between
        states = hidden[-len(separator) - len(terminal.pending):]
        if not terminal.pending:
            states = torch.cat([terminal.hidden[None], states])
        stats = self._score_forced_tokens(states, separator)
        return replace(stats, logprob=stats.logprob - terminal.logprob)

    def _decode_number(self, starts: Sequence[Beam], axis: int
              ) -> tuple[list[Array], list[dict[int, Terminal]]]:
        """Return per start p(v), and where each value ends, by following digits to their ends."""
        p = [np.zeros(count_values(self._reply_format)) for _ in starts]
        terminals: list[dict[int, Terminal]] = [{} for _ in starts]
        beams = list(starts)
        while beams:
            logprobs = self._compute_logprobs(torch.stack([b.hidden for b in beams]),
                                      [(b.number, axis) for b in beams])
            longer = []
            for branch, row in zip(beams, logprobs, strict=True):
                self._add_end(branch, row, axis, p, terminals)
                longer += self._expand(branch, row, p, terminals)
            beams = self._advance(longer)
        return p, terminals

    def _add_end(self, beam: Beam, logprobs: Array, axis: int, p: Sequence[Array],
             terminals: Sequence[dict[int, Terminal]]) -> None:
        """Add the mass of ending here."""
        if not beam.number.can_end():
            return
        p_end = np.logaddexp.reduce(logprobs[self._allowed_tokens.end_columns(axis)])
        value = beam.number.value(self._reply_format)
        p[beam.start_index][value] += math.exp(beam.logprob + p_end)
        self._record_terminal(terminals[beam.start_index], value,
                      Terminal(beam.node, (), beam.hidden, float(p_end)))

    def _expand(self, beam: Beam, logprobs: Array, p: Sequence[Array],
               terminals: Sequence[dict[int, Terminal]]) -> list[tuple[Beam, int]]:
        """Return the branch with each further digit; numbers that end with it are complete."""
        longer = []
        for digit in range(10 if beam.number.can_extend(self._reply_format) else 0):
            logprob, number = beam.logprob + float(logprobs[digit]), beam.number.append(digit)
            if number.is_complete(self._reply_format):
                value = number.value(self._reply_format)
                p[beam.start_index][value] += math.exp(logprob)
                self._record_terminal(terminals[beam.start_index], value,
                              Terminal(beam.node, (self._allowed_tokens.tokens[digit],),
                                  beam.hidden))
            else:
                longer.append((replace(beam, logprob=logprob, number=number),
                               self._allowed_tokens.tokens[digit]))
        return longer

    @staticmethod
    def _record_terminal(terminals: dict[int, Terminal], value: int, terminal: Terminal) -> None:
        terminals.setdefault(value, terminal)

    def _advance(self, candidates: Sequence[tuple[Beam, int]]) -> list[Beam]:
        """Run the digits of the weightiest branches of each question in one pass."""
        survivors: list[tuple[Beam, int]] = []
        for question in dict.fromkeys(branch.question_index for branch, _ in candidates):
            own = sorted((b for b in candidates if b[0].question_index == question),
                          key=lambda b: b[0].logprob, reverse=True)
            survivors += [b for number, b in enumerate(own[:self._options.beam_width])
                     if number == 0 or math.exp(b[0].logprob) >= self._options.min_prob]
        if not survivors:
            return []
        begin = self._node_count
        hidden = self._run_nodes([token for _, token in survivors], [b.node for b, _ in survivors])
        return [replace(b, hidden=hidden[number], node=begin + number)
                for number, (b, _) in enumerate(survivors)]
