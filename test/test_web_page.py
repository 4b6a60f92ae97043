"""The page in a real Chromium, over the real node on the built-in scene."""
from __future__ import annotations

import math

import chromium
import pytest
from chromium import HANDLE, Page


@pytest.fixture(scope='module')
def browser():
    with chromium.chromium() as browser:
        yield browser


@pytest.fixture(scope='module')
def kitchen(tmp_path_factory):
    with chromium.kitchen(tmp_path_factory.mktemp('kitchen')) as node:
        yield node


@pytest.fixture(scope='module')
def server(kitchen, tmp_path_factory):
    with chromium.serving(tmp_path_factory.mktemp('web') / 'web.log') as server:
        yield server


@pytest.fixture
def page(browser, server):
    page = Page(browser, server.address)
    page.wait_for_pictures()
    yield page
    page.close()


def distance_px(a, b):
    return math.dist(a, b)


def test_a_click_on_the_drawer_handle_is_found_in_the_other_view_within_3_px(page):
    page.click('front', HANDLE)
    found = page.found('side')
    truth = chromium.truth_of('drawer handle', 'side', found['stamp'])
    assert distance_px(found['pixel'], truth) < 3
    page.picture('answer')
