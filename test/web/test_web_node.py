"""The page's server as a client of the node, with a fake matcher."""
from __future__ import annotations

import asyncio
import io
import json
import urllib.request
import zipfile

import aiohttp
import chromium
import cv2
import numpy as np
import pytest
from chromium import Page, wait_for_event

from crosspoint_ros.ros.client.session import RosSession


@pytest.fixture(scope='module')
def node(tmp_path_factory):
    with chromium.run_cameras('--still'), chromium.start_node(
            tmp_path_factory.mktemp('node'), 'matcher:=fake_matchers:ExactMatcher',
            'refine:=none') as node:
        yield node


@pytest.fixture(scope='module')
def server(node, tmp_path_factory):
    with chromium.run_web_server(tmp_path_factory.mktemp('web') / 'web.log') as server:
        talk(server, click_until_answered)
        yield server


async def click_until_answered(socket_):
    """Click until the node has received images."""
    await socket_.send_str(click(0))
    while not (reply := await wait_for_event(socket_, 'reply'))['ok']:
        assert 'no image has come' in reply['message']
        await asyncio.sleep(0.1)
        await socket_.send_str(click(0))


def talk(server, conversation):
    """Hold a conversation once the node is active and its cameras are known."""
    async def ready(socket_):
        await wait_for_event(socket_, 'state', lambda e: e['cameras'] and not e['words'])
        return await conversation(socket_)
    return server.run_session(ready)


def click(number, x=300.0, y=300.0, camera='front', stamp='0'):
    return json.dumps({'type': 'click', 'id': number, 'camera': camera, 'stamp': stamp, 'x': x,
                       'y': y})


def test_a_hundred_clicks_at_once_all_get_a_reply_and_the_next_one_an_answer(server, node):
    async def conversation(socket_):
        for number in range(100):
            await socket_.send_str(click(number, x=200.0 + number))
        replies = [await wait_for_event(socket_, 'reply') for _ in range(100)]
        await socket_.send_str(click(100))
        return replies, await wait_for_event(socket_, 'reply', lambda e: e['id'] == 100)
    replies, last = talk(server, conversation)
    assert {reply['id'] for reply in replies} == set(range(100))
    for reply in replies:  # not lost in the queues of ROS
        assert reply['ok'] or 'still open' in reply['message']
    assert last['ok'], last
    node.check()
    assert 'Traceback' not in server.log.read_text()


def test_many_browsers_that_click_at_once_all_get_their_replies(server):
    async def browser(first):
        origin = f'http://127.0.0.1:{server.port}'
        async with aiohttp.ClientSession() as session, session.ws_connect(
                f'{origin}/events', headers={'Origin': origin}, max_msg_size=0) as socket_:
            for number in range(first, first + 4):
                await socket_.send_str(click(number, x=200.0 + number))
            return [await wait_for_event(socket_, 'reply') for _ in range(4)]

    async def all_of_them():
        return await asyncio.wait_for(asyncio.gather(*(browser(10 * n) for n in range(6))), 40)

    replies = [reply for each in asyncio.run(all_of_them()) for reply in each]
    assert len(replies) == 24
    assert sum(reply['ok'] for reply in replies) >= 8
    for reply in replies:
        assert reply['ok'] or 'requests of this page are open' in reply['message']


@pytest.mark.parametrize(('given', 'message'), [
    ({'x': -1.0}, 'outside'), ({'x': 640.5}, 'outside'), ({'y': 480.5}, 'outside'),
    ({'camera': 'nowhere'}, 'nowhere'), ({'stamp': '1'}, 'no image of stamp')])
def test_a_refusal_of_the_node_is_passed_on(server, given, message):
    async def conversation(socket_):
        await socket_.send_str(click(1, **given))
        return await wait_for_event(socket_, 'reply')
    reply = talk(server, conversation)
    assert not reply['ok']
    assert message in reply['message']


def test_who_may_enter_finds_the_images_subscribed_to(server):
    """The page requests them once its modules are loaded and its socket is open."""
    topic = '/wrist/color/image_raw/compressed'

    async def enter(socket_):
        origin = f'http://127.0.0.1:{server.port}'
        async with aiohttp.ClientSession() as session:
            # Again and again: discovery may take longer than an unused subscription lasts.
            while not any(info.node_name == 'crosspoint_web'
                          for info in observer.get_subscriptions_info_by_topic(topic)):
                await session.post(f'{origin}/enter', json={}, headers={'Origin': origin})
                await asyncio.sleep(0.05)

    with RosSession() as ros:
        observer = ros.create_node('observer')
        talk(server, enter)


def test_a_camera_that_the_node_does_not_have_is_refused_by_name(server):
    async def conversation(socket_):
        await socket_.send_str(json.dumps({'type': 'next', 'camera': 'nowhere', 'after': '0'}))
        return await wait_for_event(socket_, 'bad_request')
    assert "unknown camera 'nowhere'" in talk(server, conversation)['message']


@pytest.mark.parametrize('letter', ['x', '\u00e4'])
def test_an_instruction_of_2000_letters_is_refused_and_the_connection_stays(server, letter):
    async def conversation(socket_):
        request = {'type': 'instruct', 'id': 1, 'camera': 'front', 'instruction': 2000 * letter}
        await socket_.send_str(json.dumps(request, ensure_ascii=False))
        refusal = await wait_for_event(socket_, 'reply')
        await socket_.send_str(click(2))
        return refusal, await wait_for_event(socket_, 'reply')
    refusal, reply = talk(server, conversation)
    assert '1 to 500 printable' in refusal['message']
    assert len(refusal['message']) < 200
    assert reply['id'] == 2


def test_a_session_is_exported_as_a_zip_with_the_clicked_and_matched_images(server):
    async def conversation(socket_):
        for camera in ('front', 'side'):
            await socket_.send_str(json.dumps({'type': 'next', 'camera': camera, 'after': '0'}))
        stamps = {}
        while len(stamps) < 2:
            message = await socket_.receive()
            if message.type == aiohttp.WSMsgType.BINARY:
                header = json.loads(message.data[4:4 + int.from_bytes(message.data[:4], 'big')])
                stamps[header['camera']] = header['stamp']
        await socket_.send_str(click(1, stamp=stamps['front']))
        clicked = target = None
        while clicked is None or target != clicked:  # two topics: either may come first
            event = json.loads((await socket_.receive()).data)
            if event['type'] == 'targets':
                target = event['targets'][0]['query_id']
            elif event['type'] == 'history' and event['entries'][-1]['clicked']['stamp'] == (
                    stamps['front']):
                clicked = event['entries'][-1]['query_id']
        return stamps
    stamps = talk(server, conversation)
    with urllib.request.urlopen(f'http://127.0.0.1:{server.port}/session.zip') as reply:
        archive = zipfile.ZipFile(io.BytesIO(reply.read()))
        assert '.zip' in reply.headers['Content-Disposition']
    assert archive.testzip() is None
    session = json.loads(archive.read('session.json'))
    entry = session['entries'][-1]
    assert entry['result']['clicked']['stamp'] == stamps['front']
    assert entry['result']['target']
    assert session['target']['query_id'] == entry['result']['query_id']
    header = entry['pictures']['front']
    name = header['file']
    assert (header['width'], header['height']) == (640, 480)
    assert name == f'pictures/{entry["number"]:03}_front.jpg'
    picture = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] / picture.shape[0] == 640 / 480
    assert picture.shape[1] == pytest.approx(header['scale'] * 640, abs=1)


@pytest.mark.parametrize('corner', [(0.0, 0.0), (639.0, 479.0)])
def test_a_click_on_the_border_is_a_click(server, corner):
    async def conversation(socket_):
        await socket_.send_str(click(1, *corner))
        return await wait_for_event(socket_, 'shown', lambda e: e['result'] and (
            e['result']['clicked']['x'], e['result']['clicked']['y']) == corner)
    assert talk(server, conversation)['result']['found']


def test_progress_that_arrives_after_the_result_does_not_overwrite_it(server):
    held, sent = {}, []

    def delay(socket_):  # results and progress are different topics, in any order
        def on_message(message):
            event = json.loads(message) if isinstance(message, str) else {'type': 'image'}
            is_answer = event['type'] == 'shown' and event['result'] and \
                abs(event['result']['clicked']['x'] - 222) < 1
            if sent or not (is_answer or event['type'] == 'reply'):
                socket_.send(message)
                return
            held[event['type']] = event
            if len(held) == 2:
                progress = {'type': 'progress', 'id': held['reply']['id'], 'stage': 'verify',
                            'elapsed_s': 0.1}
                for each in (held['shown'], progress, held['reply']):
                    sent.append(each['type'])
                    socket_.send(json.dumps(each))
        socket_.connect_to_server().on_message(on_message)

    with chromium.launch_browser() as browser:
        page = Page(browser, server.address, between=delay)
        page.wait_for_images()
        page.click('front', (222.0, 222.0))
        page.wait(lambda: 'reply' in sent, 'reply')
        page.wait_for_text('[data-camera=front] .message', 'clicked (22')
        page.close()


def test_a_matcher_that_grounds_finds_the_point_of_an_instruction(server):
    with chromium.launch_browser() as browser:
        page = Page(browser, server.address)
        page.wait_for_images()
        page.tab.locator('#instruct').wait_for(state='visible')
        page.tab.fill('#instruction', 'the middle')
        page.tab.keyboard.press('Enter')
        page.wait_for_text('[data-camera=front] .message', 'clicked (319.5, 239.5)')
        page.screenshot('instruction')
        page.tab.fill('#instruction', 'the \u200bmiddle')  # as pasted from a web page
        page.tab.keyboard.press('Enter')
        page.wait_for_text('[data-camera=front] .message', '1 to 500 printable')
        assert 'Matching' not in page.tab.inner_text('#result')
        page.close()
