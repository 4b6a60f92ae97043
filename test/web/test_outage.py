"""The page in a real Chromium when something goes: the server, the node, a camera, the token."""
from __future__ import annotations

import os
import signal

import chromium
import pytest
from chromium import HANDLE, Page


@pytest.fixture(scope='module')
def browser():
    with chromium.launch_browser() as browser:
        yield browser


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('web')


@pytest.fixture(scope='module')
def cameras():
    with chromium.run_cameras('--still') as process:
        yield process


@pytest.fixture(scope='module')
def node(cameras, folder):
    with chromium.start_node(folder) as node:
        yield node


def answer(page):
    page.click_until_answered(until_found=True)
    return page.found('side')


def test_the_server_is_lost_and_comes_back_with_the_answer(browser, node, folder):
    with chromium.run_web_server(folder / 'first.log') as first:
        page = Page(browser, first.address)
        page.wait_for_images()
        found = answer(page)
    page.wait_for_text('#status', 'The server is not there')
    page.click('front', HANDLE)
    page.wait_for_text('[data-camera=front] .message', 'nothing was sent')
    page.wait_for_text('[data-camera=front] .badge', 'not connected')
    assert page.found('side') == found
    page.screenshot('server_lost')
    with chromium.run_web_server(folder / 'second.log', '--port', str(first.port)):
        page.wait_for_text('#status', 'is ready')
        stale = page.view('side').get_attribute('data-stamp')
        page.wait(lambda: page.view('side').get_attribute('data-stamp') != stale, 'live pictures')
        assert page.found('side') == found
        answer(page)
    page.close()


def test_a_camera_that_stops_is_seen_to_have_stopped_and_refuses_clicks_in_words(
        browser, node, cameras, folder):
    with chromium.run_web_server(folder / 'frozen.log') as server:
        page = Page(browser, server.address)
        page.wait_for_images()
        cameras.send_signal(signal.SIGSTOP)
        try:
            page.wait_for_text('[data-camera=front] .badge', 'no picture for')
            assert 'frozen' in page.view('front').get_attribute('class')
            page.click('front', HANDLE)
            page.wait_for_text('[data-camera=front] .message', 's old and no other comes')
            page.screenshot('frozen')
        finally:
            cameras.send_signal(signal.SIGCONT)
        page.wait_for_text('[data-camera=front] .badge', 'live')
        answer(page)
        page.close()


def test_a_node_that_dies_and_comes_back_is_told_and_served_again(browser, node, folder):
    with chromium.run_web_server(folder / 'node.log') as server:
        page = Page(browser, server.address)
        page.wait_for_images()
        found = answer(page)
        page.wait(lambda: page.tab.is_enabled('#accept'), 'something to accept')
        os.kill(node.pid, signal.SIGSTOP)  # as one that hangs: it stays on the graph
        try:
            page.click('front', HANDLE)
            assert page.tab.is_disabled('#accept'), 'what is not to be seen can be accepted'
            page.wait_for_text('#status', 'has not answered for 3 s')
            page.wait_for_text('[data-camera=front] .message', 'has not answered')
            assert page.found('side') == found, 'the answer that stands is not shown'
            assert page.tab.is_enabled('#accept')
        finally:
            os.kill(node.pid, signal.SIGCONT)
        page.wait_for_text('#status', 'is ready')
        node.stop()
        # Whether it has left the graph, or only fallen silent, is the middleware's matter.
        page.wait(lambda: 'is ready' not in page.tab.inner_text('#status'), 'sign of its end')
        with chromium.start_node(folder):
            page.wait_for_text('#status', 'is ready')
            answer(page)
        page.close()


def test_the_token_leaves_the_address_bar_and_no_request_shows_it(browser, folder):
    with chromium.run_web_server(folder / 'token.log', '--port', '0', '--host', '0.0.0.0') as server:
        token = server.address.partition('#token=')[2]
        page = Page(browser, 'about:blank')
        asked = []
        page.tab.on('request', lambda request: asked.append((request.url, request.all_headers())))
        page.tab.goto(f'http://127.0.0.1:{server.port}/#token={token}')
        page.wait_for_text('#status', '/crosspoint is not there')
        assert page.tab.url == f'http://127.0.0.1:{server.port}/'
        assert len(asked) > 8
        for url, headers in asked:
            assert token not in url
            assert not any(token in value for value in headers.values())
            assert 'referer' not in headers
        page.tab.reload()  # the cookie is enough
        page.wait_for_text('#status', '/crosspoint is not there')
        assert token not in server.log.read_text()
        page.close()


@pytest.mark.parametrize('mistake', ['', '#token=wrong-and-long-enough'])
def test_a_wrong_token_is_refused_in_words_on_the_page(browser, folder, mistake):
    with chromium.run_web_server(folder / 'wrong.log', '--port', '0', '--host', '0.0.0.0') as server:
        page = Page(browser, f'http://127.0.0.1:{server.port}/{mistake}')
        page.wait_for_text('#status', 'Open the address that crosspoint web printed')
        assert page.tab.url == f'http://127.0.0.1:{server.port}/'
        server.wait_for_log('refused 127.0.0.1: it')
        right = server.address.partition('#')[2]
        page.tab.goto(f'http://127.0.0.1:{server.port}/#{right}')
        page.wait_for_text('#status', '/crosspoint is not there')
        page.close()
