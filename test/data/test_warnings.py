"""Warnings of a command are counted and shown, also those of its worker processes."""
from __future__ import annotations

import logging
from operator import itemgetter

import pytest
from log_writer import log, warn

from crosspoint_ros.data.io import PACKAGE_LOG, WarningCounter
from crosspoint_ros.data.parallel import process_pool


class Shown(logging.Handler):
    """A double of the terminal."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def shown():
    handler = Shown()
    PACKAGE_LOG.addHandler(handler)
    yield handler.lines
    PACKAGE_LOG.removeHandler(handler)


def test_the_first_of_each_kind_are_shown_and_all_are_kept(shown):
    with WarningCounter(limit=3) as warnings:
        warn('a', 5)
        log.warning('something else')
        log.info('below a warning')
    assert warnings.lines == [*(f'a: line {i} is bad' for i in range(5)), 'something else']
    assert shown == [*warnings.lines[:3], 'something else',
                     '2 more warnings of the kind: %s: line %d is bad']
    assert warnings.exit_code == 1


def test_the_same_line_counts_once(shown):
    with WarningCounter() as warnings:
        warn('a', 2)
        warn('a', 2)
    assert warnings.lines == shown == ['a: line 0 is bad', 'a: line 1 is bad']


def test_without_a_warning_the_exit_code_is_0_and_the_handlers_are_back(shown):
    handlers = list(PACKAGE_LOG.handlers)
    with WarningCounter() as warnings:
        log.info('nothing bad')
    assert warnings.exit_code == 0
    assert handlers == PACKAGE_LOG.handlers


@pytest.mark.parametrize('processes', [1, 2])
def test_warnings_of_workers_arrive_with_their_kind(shown, processes):
    with WarningCounter(limit=1) as warnings, process_pool(processes) as pool:
        results = pool(warn, [('a', 2), ('b', 1)], itemgetter(0), 'warn')
    assert results == [('a', 2), ('b', 1)]
    assert sorted(warnings.lines) == ['a: line 0 is bad', 'a: line 1 is bad', 'b: line 0 is bad']
    assert len(shown) == 2
    assert shown[1].startswith('2 more warnings')
