"""The page's server as a client of the real node, which asks a matcher that is a double."""
from __future__ import annotations

import asyncio
import json

import aiohttp
import chromium
import pytest
from chromium import Page


@pytest.fixture(scope='module')
def node(tmp_path_factory):
    with chromium.run_cameras('--still'), chromium.start_node(
            tmp_path_factory.mktemp('node'), 'matcher:=fake_matchers:ExactMatcher',
            'refine:=none') as node:
        yield node


@pytest.fixture(scope='module')
def server(node, tmp_path_factory):
    with chromium.run_web_server(tmp_path_factory.mktemp('web') / 'web.log') as server:
        talk(server, answered)
        yield server


async def answered(socket_):
    """Click until the node has images: it looks for them when it begins."""
    await socket_.send_str(click(0))
    while not (reply := await until(socket_, 'reply'))['ok']:
        assert 'no image has come' in reply['message']
        await asyncio.sleep(0.1)
        await socket_.send_str(click(0))


async def until(socket_, kind, condition=lambda event: True):
    while True:
        message = await socket_.receive()
        if message.type == aiohttp.WSMsgType.TEXT:
            event = json.loads(message.data)
            if event['type'] == kind and condition(event):
                return event


def talk(server, conversation):
    """Hold a conversation with an active node's page."""
    async def go():
        origin = f'http://127.0.0.1:{server.port}'
        async with aiohttp.ClientSession() as session, session.ws_connect(
                f'{origin}/events', headers={'Origin': origin}, max_msg_size=0) as socket_:
            await until(socket_, 'state', lambda e: e['cameras'] and not e['words'])
            return await conversation(socket_)
    return asyncio.run(asyncio.wait_for(go(), 40))


def click(number, x=300.0, y=300.0, camera='front', stamp='0'):
    return json.dumps({'type': 'click', 'id': number, 'camera': camera, 'stamp': stamp, 'x': x,
                       'y': y})


def test_a_hundred_clicks_at_once_are_each_replied_to_and_the_next_one_is_answered(server, node):
    async def conversation(socket_):
        for number in range(100):
            await socket_.send_str(click(number, x=200.0 + number))
        replies = [await until(socket_, 'reply') for _ in range(100)]
        await socket_.send_str(click(100))
        return replies, await until(socket_, 'reply', lambda e: e['id'] == 100)
    replies, last = talk(server, conversation)
    assert {reply['id'] for reply in replies} == set(range(100))
    for reply in replies:  # ROS loses what is more than ten at a time: we do not ask it so much
        assert reply['ok'] or 'still open' in reply['message']
    assert last['ok'], last
    node.check()
    assert 'Traceback' not in server.log.read_text()


def test_many_browsers_that_click_at_once_lose_no_reply_either(server):
    async def browser(first):
        origin = f'http://127.0.0.1:{server.port}'
        async with aiohttp.ClientSession() as session, session.ws_connect(
                f'{origin}/events', headers={'Origin': origin}, max_msg_size=0) as socket_:
            for number in range(first, first + 4):
                await socket_.send_str(click(number, x=200.0 + number))
            return [await until(socket_, 'reply') for _ in range(4)]

    async def all_of_them():
        return await asyncio.wait_for(asyncio.gather(*(browser(10 * n) for n in range(6))), 15)

    replies = [reply for each in asyncio.run(all_of_them()) for reply in each]
    assert len(replies) == 24
    assert sum(reply['ok'] for reply in replies) >= 8
    for reply in replies:
        assert reply['ok'] or 'requests of this page are open' in reply['message']


@pytest.mark.parametrize(('given', 'said'), [
    ({'x': -1.0}, 'outside'), ({'x': 640.5}, 'outside'), ({'y': 480.5}, 'outside'),
    ({'camera': 'nowhere'}, 'nowhere'), ({'stamp': '1'}, 'no image of stamp')])
def test_what_the_node_refuses_is_told_in_its_words(server, given, said):
    async def conversation(socket_):
        await socket_.send_str(click(1, **given))
        return await until(socket_, 'reply')
    reply = talk(server, conversation)
    assert not reply['ok']
    assert said in reply['message']


@pytest.mark.parametrize('corner', [(0.0, 0.0), (639.0, 479.0)])
def test_a_click_on_the_border_is_a_click(server, corner):
    async def conversation(socket_):
        await socket_.send_str(click(1, *corner))
        return await until(socket_, 'shown', lambda e: e['result'] and (
            e['result']['clicked']['x'], e['result']['clicked']['y']) == corner)
    assert talk(server, conversation)['result']['found']


def test_progress_that_comes_after_the_answer_does_not_take_its_place(server):
    held, sent = [], []

    def late(socket_):  # results and progress are different topics: any may be the first
        def heard(message):
            event = json.loads(message) if isinstance(message, str) else {'type': 'picture'}
            answered = 'answer' in [kind for kind, _ in sent]
            if event['type'] in ('progress', 'reply') and not answered:
                held.append((event['type'], message))
                return
            given = [(event['type'], message)]
            if event['type'] == 'shown' and event['result'] and \
                    abs(event['result']['clicked']['x'] - 222) < 1:
                given = [('answer', message), *held]
            for each in given:
                sent.append(each)
                socket_.send(each[1])
        socket_.connect_to_server().on_message(heard)

    with chromium.launch_browser() as browser:
        page = Page(browser, server.address, between=late)
        page.wait_for_images()
        page.click('front', (222.0, 222.0))
        page.wait(lambda: 'reply' in [kind for kind, _ in sent], 'reply')
        order = [kind for kind, _ in sent if kind in ('answer', 'progress', 'reply')]
        assert order[:2] == ['answer', 'progress']
        page.wait_for_text('[data-camera=front] .message', 'clicked (22')
        page.close()


def test_with_a_matcher_that_takes_instructions_words_find_the_point(server):
    with chromium.launch_browser() as browser:
        page = Page(browser, server.address)
        page.wait_for_images()
        page.tab.locator('#instruct').wait_for(state='visible')
        page.tab.fill('#instruction', 'the middle')
        page.tab.keyboard.press('Enter')
        page.wait_for_text('[data-camera=front] .message', 'clicked (319.5, 239.5)')
        page.screenshot('instruction')
        page.close()
