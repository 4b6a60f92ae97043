"""The page in Chromium when the server, the node or a camera fails, or the token is wrong."""
from __future__ import annotations

import os
import signal

import chromium
import pytest
from chromium import HANDLE, Page

PUBLIC = ('--port', '0', '--host', '0.0.0.0')


@pytest.fixture(scope='module')
def cameras():
    with chromium.run_cameras('--still') as process:
        yield process


@pytest.fixture(scope='module')
def node(cameras, folder):
    with chromium.start_node(folder) as node:
        yield node


def click(page):
    """Click in front, and return the point found in side."""
    page.click_until_answered(until_found=True)
    return page.wait_for_mark('side')


def test_a_restarted_server_brings_the_result_back(browser, node, folder):
    with chromium.run_web_server(folder / 'first.log') as first:
        page = Page(browser, first.address)
        page.wait_for_images()
        found = click(page)
    page.wait_for_text('#status', 'Server unreachable')
    page.click('front', HANDLE)
    page.wait_for_text('[data-camera=front] .message', 'nothing was sent')
    page.wait_for_text('[data-camera=front] .badge', 'not connected')
    assert page.wait_for_mark('side') == found
    page.screenshot('server_lost')
    with chromium.run_web_server(folder / 'second.log', '--port', str(first.port)):
        page.wait_for_text('#status', 'is ready')
        stale = page.view('side').get_attribute('data-stamp')
        page.wait(lambda: page.view('side').get_attribute('data-stamp') != stale, 'live images')
        assert page.wait_for_mark('side') == found
        click(page)
    page.close()


def test_a_server_that_hangs_turns_the_status_red_within_5_s(browser, node, folder):
    with chromium.run_web_server(folder / 'hung.log') as server:
        page = Page(browser, server.address)
        page.wait_for_images()
        click(page)
        page.wait_for_text('#status', 'is ready')
        try:
            assert page.time_until_status('does not answer', lambda: os.kill(
                server.process.pid, signal.SIGSTOP)) < 5
            assert 'lost' in page.tab.get_attribute('#status', 'class')
            page.click('front', HANDLE)
            page.wait_for_text('[data-camera=front] .message', 'nothing was sent')
            page.wait_for_text('#target-state', 'last known')
            page.screenshot('server_hung')
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        page.wait_for_text('#status', 'is ready')
        page.wait(lambda: 'last known' not in page.tab.inner_text('#target-state'), 'certainty')
        page.wait_for_text('[data-camera=front] .badge', 'live')
        click(page)
        page.close()


def test_a_camera_that_stops_is_shown_as_frozen_and_takes_no_clicks(
        browser, node, cameras, folder):
    with chromium.run_web_server(folder / 'frozen.log') as server:
        page = Page(browser, server.address)
        page.wait_for_images()
        cameras.send_signal(signal.SIGSTOP)
        try:
            page.wait_for_text('[data-camera=front] .badge', 'frozen for')
            assert 'frozen' in page.view('front').get_attribute('class')
            page.click('front', HANDLE)
            page.wait_for_text('[data-camera=front] .message', 's old; nothing was sent')
            page.screenshot('frozen')
        finally:
            cameras.send_signal(signal.SIGCONT)
        page.wait_for_text('[data-camera=front] .badge', 'live')
        click(page)
        page.close()


def test_a_node_that_hangs_or_dies_is_reported_and_used_again_once_back(browser, node, folder):
    with chromium.run_web_server(folder / 'node.log') as server:
        page = Page(browser, server.address)
        page.wait_for_images()
        found = click(page)
        page.wait(lambda: page.tab.is_enabled('#accept'), 'something to accept')
        os.kill(node.pid, signal.SIGSTOP)  # it hangs, but stays on the graph

        def click_in_vain() -> None:
            page.click('front', HANDLE)
            assert page.tab.is_disabled('#accept'), 'a result that is not displayed can be accepted'
            page.wait_for_text('[data-camera=side] .message', 'previous answer')
        try:
            assert page.time_until_status('has not replied for 3 s', click_in_vain) < 5
            page.wait_for_text('#target-state', 'last known')
            page.wait_for_text('[data-camera=front] .message', 'has not replied')
            assert page.wait_for_mark('side') == found, 'the current result is not displayed'
            assert page.tab.is_enabled('#accept')
        finally:
            os.kill(node.pid, signal.SIGCONT)
        page.wait_for_text('#status', 'is ready')
        node.stop()
        # It may have left the graph or only fallen silent, depending on the middleware.
        page.wait(lambda: 'is ready' not in page.tab.inner_text('#status'), 'sign of its end')
        with chromium.start_node(folder):
            page.wait_for_text('#status', 'is ready')
            click(page)
        page.close()


def test_the_token_leaves_the_address_bar_and_no_request_contains_it(browser, folder):
    with chromium.run_web_server(folder / 'token.log', *PUBLIC) as server:
        token = server.address.partition('#token=')[2]
        page = Page(browser, 'about:blank')
        requests = []
        page.tab.on('request', lambda r: requests.append((r.url, r.all_headers())))
        page.tab.goto(f'http://127.0.0.1:{server.port}/#token={token}')
        page.wait_for_text('#status', '/crosspoint ')  # of the node, whatever it is
        assert page.tab.url == f'http://127.0.0.1:{server.port}/'
        assert page.tab.inner_text('#target-state') == 'not known yet'
        assert len(requests) > 8
        for url, headers in requests:
            assert token not in url
            assert not any(token in value for value in headers.values())
            assert 'referer' not in headers
        page.tab.reload()  # the cookie is enough
        page.wait_for_text('#status', '/crosspoint ')  # of the node, whatever it is
        assert token not in server.log.read_text()
        page.close()


@pytest.mark.parametrize('fragment', ['', '#token=wrong-and-long-enough'])
def test_a_wrong_token_is_explained_on_the_page(browser, folder, fragment):
    with chromium.run_web_server(folder / 'wrong.log', *PUBLIC) as server:
        page = Page(browser, f'http://127.0.0.1:{server.port}/{fragment}')
        page.wait_for_text('#status', 'Open the address that crosspoint web printed')
        assert page.tab.url == f'http://127.0.0.1:{server.port}/'
        server.wait_for_log('refused 127.0.0.1: ')
        token = server.address.partition('#')[2]
        page.tab.goto(f'http://127.0.0.1:{server.port}/#{token}')
        page.wait_for_text('#status', '/crosspoint ')  # of the node, whatever it is
        page.close()
