"""Digit by digit through the two numbers of a reply: the most probable way, or all that matter."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.matchers.cropond.coordinate_distribution import Heard, Spread
from crosspoint_ros.matchers.cropond.engine.reply_grammar import Choices, Numeral, values

# Tokens and their parents in, hidden states out; numbers of nodes are given in the order of calls.
Run = Callable[[Sequence[int], Sequence[int]], torch.Tensor]
# Hidden states before, among and behind forced words, and those words: what the model says there.
Hear = Callable[[torch.Tensor, tuple[int, ...]], Heard]
X, Y = 0, 1


@dataclass(frozen=True)
class Pruning:
    """What of the tree of digits is not followed, and so is missing from a spread.

    max_branches: so many beginnings of a number are followed at a time, the most probable ones.
    max_values: the y is asked for so many values of x. least_weight: a beginning less probable is
    left out. A model that knows the place needs few of each.
    """

    max_branches: int = 8
    max_values: int = 1
    least_weight: float = 1e-3


@dataclass(frozen=True)
class Greedy:
    """Two numbers, the tokens that wrote them, and their log-probability among those allowed."""

    numbers: tuple[int, int]
    tokens: tuple[int, ...]
    logprob: float


class Digits:
    """What both searches share: the small head, the grammar, and the count of the tree's nodes."""

    def __init__(self, run: Run, head: torch.Tensor, choices: Choices, nodes: int) -> None:
        self._run, self._head, self._choices, self._form = run, head, choices, choices.form
        self._nodes = nodes

    def _logprobs(self, hidden: torch.Tensor, numerals: Sequence[tuple[Numeral, int]]) -> Array:
        """Log-probabilities (n, columns) among the tokens that may follow. Refuses NaN."""
        scores = (hidden @ self._head.T).float()
        if not bool(torch.isfinite(scores).all()):
            raise Rejected(Code.MATCHER_FAILED, 'the model computed what is no number (NaN or '
                           'infinite): broken weights, or a number format it cannot take')
        allowed = torch.from_numpy(self._choices.allowed(numerals)).to(scores.device)
        logprobs = torch.log_softmax(scores.masked_fill(~allowed, -torch.inf), -1)
        return np.asarray(logprobs.double().cpu().numpy())

    def _append(self, tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        self._nodes += len(tokens)
        return self._run(tokens, parents)


@dataclass
class Way:
    """One reply as far as it is written."""

    node: int
    axis: int = X
    numeral: Numeral = field(default_factory=Numeral)
    numbers: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0


class GreedySearch(Digits):
    """Takes the most probable token each time."""

    def search(self, hidden: torch.Tensor, last: Sequence[int]) -> list[Greedy]:
        """Complete the replies whose last nodes these are, all in the same passes."""
        ways = [Way(node) for node in last]
        open_ways = ways
        while open_ways:
            logprobs = self._logprobs(hidden, [(way.numeral, way.axis) for way in open_ways])
            feeds = [self._decide(way, row) for way, row in
                     zip(open_ways, logprobs, strict=True)]
            open_ways = [way for way in open_ways if way.axis <= Y]
            hidden = self._feed(open_ways, [feed for feed in feeds if feed])
        return [Greedy((way.numbers[X], way.numbers[Y]), tuple(way.tokens), way.logprob)
                for way in ways]

    def _decide(self, way: Way, logprobs: Array) -> list[int]:
        """Take the best; return the tokens to run next, none if the reply is complete."""
        best = int(logprobs.argmax())
        way.logprob += float(logprobs[best])
        feed = []
        if best < 10:
            feed = [self._choices.tokens[best]]
            way.numeral = way.numeral.plus(best)
        if best >= 10 or way.numeral.must_end(self._form):
            way.numbers.append(way.numeral.value(self._form))
            way.numeral, way.axis = Numeral(), way.axis + 1
            if way.axis == Y:
                feed = [*feed, *self._form.between]
        way.tokens += feed
        return feed if way.axis <= Y else []

    def _feed(self, ways: Sequence[Way], feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        tokens: list[int] = []
        parents: list[int] = []
        for way, feed in zip(ways, feeds, strict=True):
            for token in feed:
                parents.append(way.node)
                way.node = self._nodes + len(tokens)
                tokens.append(token)
        if not tokens:
            return torch.empty(0)
        begin = self._nodes
        return self._append(tokens, parents)[[way.node - begin for way in ways]]


@dataclass(frozen=True, eq=False)
class Branch:
    """The beginning of a number: its hidden state, node and log-weight.

    start: where it began, question: what it replies to.
    """

    start: int
    question: int
    hidden: torch.Tensor
    node: int
    logweight: float
    numeral: Numeral = field(default_factory=Numeral)


@dataclass(frozen=True)
class End:
    """Where a number ends in the tree: its last node, and the digit that has yet to be run.

    hidden: at that node. logprob: what of its ending is in the number's probability already.
    """

    node: int
    pending: tuple[int, ...]
    hidden: torch.Tensor
    logprob: float = 0.0


class SpreadSearch(Digits):
    """Follows the beginnings that matter, all of a length in one pass."""

    def __init__(self, run: Run, head: torch.Tensor, choices: Choices, nodes: int,
                 pruning: Pruning, hear: Hear) -> None:
        super().__init__(run, head, choices, nodes)
        self._pruning, self._hear = pruning, hear

    def search(self, hidden: torch.Tensor, last: Sequence[int]) -> list[tuple[Spread, Heard]]:
        """Weigh the numbers of the replies whose last nodes these are.

        What is heard is about the words between the numbers, and the second one's beginning.
        """
        starts = [Branch(question, question, hidden[question], node, 0.0)
                  for question, node in enumerate(last)]
        px, ends = self._axis(starts, X)
        chosen = [(reply, int(v)) for reply, p in enumerate(px)
                  for v in np.argsort(p)[::-1][:self._pruning.max_values]
                  if p[v] >= self._pruning.least_weight or p[v] == p.max()]
        seconds, heard = self._seconds(chosen, px, ends)
        py, _ = self._axis(seconds, Y)
        return [self._spread(reply, px[reply], chosen, py, heard) for reply in range(len(last))]

    @staticmethod
    def _spread(reply: int, px: Array, chosen: Sequence[tuple[int, int]], py: Sequence[Array],
                heard: Sequence[Heard]) -> tuple[Spread, Heard]:
        """Join p(x) with p(y | x), which was asked for the most probable x alone."""
        mine = [(v, p, said) for (whose, v), p, said in zip(chosen, py, heard, strict=True)
                if whose == reply]
        x, best, said = max(mine, key=lambda each: (float(each[1].max()), each[0]))
        form = min(math.exp(said.logprob) * said.number, 1.0)
        py_of_all = np.sum([p for _, p, _ in mine], axis=0)
        return Spread(px, py_of_all, (x, int(best.argmax())), form), said

    def _seconds(self, chosen: Sequence[tuple[int, int]], px: Sequence[Array],
                 ends: Sequence[dict[int, End]]) -> tuple[list[Branch], list[Heard]]:
        """Run what stands between the numbers, for each chosen x, in one pass; hear it.

        The weights of the chosen x of one question add up to one.
        """
        tokens: list[int] = []
        parents: list[int] = []
        lasts: list[int] = []
        for reply, v in chosen:
            end = ends[reply][v]
            node = end.node
            for token in (*end.pending, *self._form.between):
                parents.append(node)
                node = self._nodes + len(tokens)
                tokens.append(token)
            lasts.append(node)
        begin = self._nodes
        hidden = self._append(tokens, parents)
        asked = np.zeros(len(px))
        for reply, v in chosen:
            asked[reply] += px[reply][v]
        branches = [Branch(number, reply, hidden[node - begin], node,
                           math.log(px[reply][v] / asked[reply]))
                    for number, ((reply, v), node) in enumerate(zip(chosen, lasts, strict=True))]
        return branches, [self._between(ends[reply][v], hidden[:node - begin + 1])
                          for (reply, v), node in zip(chosen, lasts, strict=True)]

    def _between(self, end: End, hidden: torch.Tensor) -> Heard:
        """What the model says of the words between; hidden: up to the last of them."""
        words = self._form.between
        states = hidden[-len(words) - len(end.pending):]
        if not end.pending:
            states = torch.cat([end.hidden[None], states])
        said = self._hear(states, words)
        return replace(said, logprob=said.logprob - end.logprob)

    def _axis(self, starts: Sequence[Branch], axis: int
              ) -> tuple[list[Array], list[dict[int, End]]]:
        """Return per start p(v), and where each value ends, by following digits to their ends."""
        p = [np.zeros(values(self._form)) for _ in starts]
        ends: list[dict[int, End]] = [{} for _ in starts]
        branches = list(starts)
        while branches:
            logprobs = self._logprobs(torch.stack([b.hidden for b in branches]),
                                      [(b.numeral, axis) for b in branches])
            longer = []
            for branch, row in zip(branches, logprobs, strict=True):
                self._end(branch, row, axis, p, ends)
                longer += self._grown(branch, row, p, ends)
            branches = self._followed(longer)
        return p, ends

    def _end(self, branch: Branch, logprobs: Array, axis: int, p: Sequence[Array],
             ends: Sequence[dict[int, End]]) -> None:
        """Add the mass of ending here."""
        if not branch.numeral.may_end():
            return
        ending = np.logaddexp.reduce(logprobs[self._choices.ending(axis)])
        value = branch.numeral.value(self._form)
        p[branch.start][value] += math.exp(branch.logweight + ending)
        self._ends_at(ends[branch.start], value,
                      End(branch.node, (), branch.hidden, float(ending)))

    def _grown(self, branch: Branch, logprobs: Array, p: Sequence[Array],
               ends: Sequence[dict[int, End]]) -> list[tuple[Branch, int]]:
        """Return the branch with each further digit; numbers that end with it are complete."""
        longer = []
        for digit in range(10 if branch.numeral.may_go_on(self._form) else 0):
            weight, numeral = branch.logweight + float(logprobs[digit]), branch.numeral.plus(digit)
            if numeral.must_end(self._form):
                value = numeral.value(self._form)
                p[branch.start][value] += math.exp(weight)
                self._ends_at(ends[branch.start], value,
                              End(branch.node, (self._choices.tokens[digit],),
                                  branch.hidden))
            else:
                longer.append((replace(branch, logweight=weight, numeral=numeral),
                               self._choices.tokens[digit]))
        return longer

    @staticmethod
    def _ends_at(ends: dict[int, End], value: int, end: End) -> None:
        ends.setdefault(value, end)

    def _followed(self, longer: Sequence[tuple[Branch, int]]) -> list[Branch]:
        """Run the digits of the weightiest branches of each question in one pass."""
        kept: list[tuple[Branch, int]] = []
        for question in dict.fromkeys(branch.question for branch, _ in longer):
            mine = sorted((b for b in longer if b[0].question == question),
                          key=lambda b: b[0].logweight, reverse=True)
            kept += [b for number, b in enumerate(mine[:self._pruning.max_branches])
                     if number == 0 or math.exp(b[0].logweight) >= self._pruning.least_weight]
        if not kept:
            return []
        begin = self._nodes
        hidden = self._append([token for _, token in kept], [b.node for b, _ in kept])
        return [replace(b, hidden=hidden[number], node=begin + number)
                for number, (b, _) in enumerate(kept)]
