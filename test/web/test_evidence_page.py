"""The evidence on the page: epipolar lines, depth, the answered picture, earlier answers."""
from __future__ import annotations

import asyncio
import json
import math
import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import chromium
from chromium import SEEN, Page

ELSEWHERE = (200.0, 310.0)


def line_in(page: Page, camera: str) -> list[tuple[float, float]]:
    path = page.view(camera).locator('.epipolar .line')
    if not path.count():
        return []
    return [tuple(map(float, point.split())) for point in
            re.findall(r'[-\d.]+ [-\d.]+', path.get_attribute('d'))]


def distance_px(line: list[tuple[float, float]], pixel: tuple[float, float]) -> float:
    def to_segment(start, end):
        (ax, ay), (bx, by) = start, end
        length2 = (bx - ax) ** 2 + (by - ay) ** 2 or 1e-9
        t = min(max(((pixel[0] - ax) * (bx - ax) + (pixel[1] - ay) * (by - ay)) / length2, 0), 1)
        return math.dist(pixel, (ax + t * (bx - ax), ay + t * (by - ay)))
    return min(map(to_segment, line, line[1:]))


# --- epipolar lines

def test_the_line_of_the_cursor_goes_through_the_same_point_in_every_other_view(page):
    page.click_until_answered(SEEN)
    found = page.wait_for_mark('side')['pixel']
    page.tab.mouse.move(*page.to_screen_position('front', SEEN))
    page.wait(lambda: line_in(page, 'side') and line_in(page, 'wrist'), 'lines')
    page.screenshot('hover')
    assert distance_px(line_in(page, 'side'), found) < 1.5
    page.tab.mouse.move(*page.to_screen_position('front', (400.0, 150.0)))
    page.wait(lambda: distance_px(line_in(page, 'side'), found) > 10, 'another line')
    page.tab.mouse.move(0, 0)
    page.wait(lambda: not line_in(page, 'side'), 'no line away from the picture')


def test_the_keyboards_crosshair_has_its_line_too(page):
    page.tab.keyboard.press('1')
    page.tab.keyboard.press('ArrowLeft')
    page.wait(lambda: line_in(page, 'side'), 'line')
    page.tab.keyboard.press('Escape')
    page.wait(lambda: not line_in(page, 'side'), 'no line')


def test_a_drag_shows_the_line_that_bounds_it(page):
    page.click_until_answered(SEEN)
    found = page.wait_for_mark('side')['pixel']
    start = page.to_screen_position('side', found)
    page.tab.mouse.move(*start)
    page.tab.mouse.down()
    page.tab.mouse.move(start[0] + 20, start[1] + 20, steps=4)
    page.wait(lambda: line_in(page, 'side'), 'line of the click')
    assert distance_px(line_in(page, 'side'), found) < 1.5
    page.tab.keyboard.press('Escape')
    page.tab.mouse.up()
    page.focus('front')


def test_each_place_under_the_cursor_has_its_lines(server):
    """How fast they come is measured by `crosspoint dev web`."""
    async def hover(websocket):
        state = await chromium.wait_for_event(websocket, 'state', lambda e: e['cameras'])
        for camera in state['cameras']:
            await websocket.send_json({'type': 'next', 'camera': camera['name'], 'after': '0'})
        stamps, rounds_ms, has_lines = {}, [], 0
        while len(stamps) < 3:
            message = await websocket.receive()
            if isinstance(message.data, bytes):
                header = json.loads(message.data[4:4 + int.from_bytes(message.data[:4], 'big')])
                stamps[header['camera']] = header['stamp']
        await asyncio.sleep(0.5)
        for x in range(100, 160):
            begun_s = time.perf_counter()
            await websocket.send_json({'type': 'hover', 'camera': 'front', 'x': float(x),
                                       'y': 200.0, 'stamp': stamps['front']})
            event = await chromium.wait_for_event(websocket, 'lines')
            rounds_ms.append(1000 * (time.perf_counter() - begun_s))
            has_lines += bool(event['lines'])
        return rounds_ms, has_lines

    with ThreadPoolExecutor(1) as pool:  # Playwright has a loop in this thread
        rounds_ms, has_lines = pool.submit(server.run_session, hover).result()
    print(f'round trip of a line: median {statistics.median(rounds_ms):.1f} ms')
    assert has_lines > 50


# --- over the picture

def test_the_answered_picture_is_compared_with_the_live_one_by_a_slider(page):
    page.click_until_answered(SEEN)
    page.focus('front')
    view = page.view('front')
    answered = view.locator('.answered')
    assert not answered.is_visible()
    view.locator('.compare').fill('50')
    page.wait(lambda: answered.evaluate('canvas => canvas.width') == 640, 'the answered picture')
    assert answered.is_visible()
    assert 'inset(0px 50% 0px 0px)' in answered.evaluate('e => getComputedStyle(e).clipPath')
    stamp = view.get_attribute('data-stamp')
    page.wait(lambda: view.get_attribute('data-stamp') != stamp, 'the live picture below')
    view.locator('.compare').fill('0')
    assert not answered.is_visible()


def test_depth_is_put_over_the_picture_with_its_range(page):
    page.focus('front')
    view = page.view('front')
    view.locator('.layer').click()
    page.wait(lambda: 'red to' in view.locator('.legend').inner_text(), 'range of the depth')
    near_m, far_m = map(float, re.findall(r'(\d+\.\d+) m', view.locator('.legend').inner_text()))
    assert 0.2 < near_m < far_m < 4
    assert view.locator('img.depth').is_visible()
    page.screenshot('depth')
    view.locator('.layer').click()
    assert not view.locator('img.depth').is_visible()


def test_the_panel_says_why(page):
    page.click_until_answered(ELSEWHERE)
    page.wait_for_mark('side')
    text = page.tab.inner_text('#result')
    assert re.search(r'\d\.\d px off the line · depths \d+ mm apart · geometry agrees', text), text
    assert re.search(r'±\d+ mm \(1σ\)', text)


# --- history

def test_a_row_has_a_thumbnail_a_verdict_and_a_time_and_opens_its_answer_again(page):
    page.click_until_answered(SEEN, until_found=True)
    first, number = page.query_id(), page.current_step()
    page.click_until_answered(ELSEWHERE)
    second = page.query_id()
    row = page.tab.locator(f'#history li[data-query="{first}"]')
    page.wait(lambda: row.locator('img').evaluate('image => image.naturalWidth') == 96,
              'thumbnail')
    assert re.search(r'front \(300, 300\)\s+(○ sure|△ to be checked)', row.inner_text())
    assert re.search(r'\d\d:\d\d:\d\d', row.inner_text())
    row.locator('button').click()
    page.wait_for_text('[data-camera=front] .message', f'click {number}, opened again')
    page.wait(lambda: page.view('side').locator('.badge').inner_text() == 'matched image',
              'its own picture')
    page.screenshot('opened')
    assert page.tab.is_disabled('#accept'), 'the picture is not that of the target'
    assert not page.view('front').locator('.layer').is_visible(), 'depth is of now'
    mark = page.view('front').locator('.mark.clicked')
    assert mark.get_attribute('data-at') == '300 300'
    assert page.query_id() == first
    page.click('front', (350.0, 250.0))
    page.wait_for_text('[data-camera=front] .message', 'Esc returns')
    assert page.query_id() == first, 'nothing is asked on an earlier picture'
    assert page.tab.inner_text('#result-title') == f'Answer to click {number} (earlier)'
    page.tab.evaluate('window.sent = []; const send = WebSocket.prototype.send;'
                      'WebSocket.prototype.send = function (text) {'
                      '  window.sent.push(JSON.parse(text).type); send.call(this, text); }; 0')
    page.tab.keyboard.press('Escape')
    page.wait(lambda: page.query_id() == second, 'the last answer')
    assert page.tab.inner_text('#result-title') == 'Last answer'
    assert page.tab.inner_text('#note') == ''
    assert row.locator('button').get_attribute('aria-pressed') == 'false'
    assert 'cancel' not in page.tab.evaluate('window.sent'), 'nothing ran'
    page.wait(lambda: page.view('front').locator('.badge').inner_text() != 'matched image', 'live')
