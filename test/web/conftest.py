"""Fixtures shared by the tests of the page."""
from __future__ import annotations

import chromium
import pytest


@pytest.fixture(scope='module')
def browser():
    with chromium.launch_browser() as browser:
        yield browser


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('web')


@pytest.fixture
def page(tab):
    """The one tab of a module's tests; each must leave no script error."""
    yield tab
    tab.tab.keyboard.press('Escape')
    assert tab.errors == []
