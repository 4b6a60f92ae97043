"""Fixtures shared by the tests of the page."""
from __future__ import annotations

import chromium
import pytest
from chromium import SEEN, Page


@pytest.fixture(scope='module')
def browser():
    with chromium.launch_browser() as browser:
        yield browser


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('web')


@pytest.fixture(scope='module')
def server(request, folder):
    """The page's server, still cameras, and the node with the module's NODE_PARAMETERS."""
    parameters = getattr(request.module, 'NODE_PARAMETERS', ())
    with chromium.run_cameras('--still'), chromium.start_node(
            folder, 'matcher:=fake_matchers:ExactMatcher', 'refine:=none', *parameters), \
            chromium.run_web_server(folder / 'web.log') as server:
        yield server


@pytest.fixture(scope='module')
def tab(browser, server):
    tab = Page(browser, server.address, height=720)
    tab.wait_for_images()
    tab.click_until_answered(SEEN, until_found=True)
    yield tab
    tab.close()


@pytest.fixture
def page(tab):
    """The one tab of a module's tests; each must leave no script error."""
    yield tab
    tab.tab.keyboard.press('Escape')
    assert tab.errors == []
