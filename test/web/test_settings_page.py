"""Limits, the doctor's findings, the order of the cameras and the 3D view on the page; touch."""
from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import chromium
import numpy as np
import pytest
from chromium import SEEN, Page

from crosspoint_ros.core.image_io import read_mask

LONG_MS = 120_000  # the doctor listens for seconds, on a busy machine for longer


def open_panel(page: Page, name: str) -> None:
    panel = page.tab.locator(name)
    if panel.get_attribute('open') is None:
        panel.locator('summary').click()


# --- limits

def test_a_slider_shows_its_effect_before_it_is_set_and_the_next_click_has_it(page):
    page.click_until_answered(SEEN)
    confidence = int(re.search(r'(\d+) %', page.view('side').locator('.message').inner_text())[1])
    open_panel(page, '#limits')
    slider = page.tab.locator('#limit-min_confidence')
    slider.wait_for()
    effect = page.tab.locator('.limit:has(#limit-min_confidence)')
    page.wait(lambda: f'side {confidence} %: enough' in effect.inner_text(), 'effect of today')
    slider.fill('0.99')
    assert f'side {confidence} %: refused' in effect.inner_text()
    assert '0.5 → 0.99' in effect.inner_text()
    assert page.view('side').locator('.mark.sure, .mark.check').count(), 'nothing has happened yet'
    page.screenshot('limits')
    effect.locator('button').click()
    page.wait_for_text('#note', 'min_confidence is 0.99 now')
    found = page.wait_for_mark('side')
    page.click('front', SEEN)
    page.view('side').locator('.message.refused').wait_for()
    ghost = page.view('side').locator('.mark.refused')
    ghost.wait_for(state='attached')
    data = ghost.evaluate('mark => ({...mark.dataset})')
    assert (float(data['x']), float(data['y'])) == pytest.approx(found['pixel'], abs=0.2)
    page.focus('side')
    assert 'confidence too low' in ghost.text_content()
    assert not ghost.locator('.grip').count(), 'a refused place is not corrected'
    page.screenshot('ghost')
    page.focus('front')
    slider.fill('0.5')
    effect.locator('button').click()
    page.wait_for_text('#note', 'min_confidence is 0.5 now')
    page.click_until_answered(SEEN, until_found=True)


def test_a_limit_that_another_client_sets_is_shown(page, server):
    open_panel(page, '#limits')
    output = page.tab.locator('.limit:has(#limit-max_epipolar_px) output')
    page.wait(lambda: output.inner_text() == '20', 'the default')

    async def set_limit(websocket):
        await websocket.send_json({'type': 'set_limit', 'id': 1, 'limit': 'max_epipolar_px',
                                   'value': 25.0})
        reply = await chromium.wait_for_event(websocket, 'reply')
        await websocket.send_json({'type': 'set_limit', 'id': 2, 'limit': 'history_s',
                                   'value': 25.0})
        return reply, await chromium.wait_for_event(websocket, 'reply')

    with ThreadPoolExecutor(1) as pool:  # Playwright has a loop in this thread
        reply, other = pool.submit(server.run_session, set_limit).result()
    assert reply['ok'], reply
    assert not other['ok']
    assert 'unknown limit history_s' in other['message']
    page.wait(lambda: output.inner_text() == '25', 'the new value')


# --- doctor

def test_the_findings_of_the_doctor_come_with_their_cures(page):
    open_panel(page, '#check')
    page.tab.click('#examine')
    page.wait_for_text('#findings', 'Checking')
    page.tab.locator('#examine:enabled').wait_for(timeout=LONG_MS)
    text = page.tab.inner_text('#findings')
    assert 'No faults found.' in text or page.tab.locator('#findings li .cure').count(), text


# --- cameras

def test_cameras_are_reordered_and_hidden_and_stay_so_after_a_reload(page):
    open_panel(page, '#order')
    page.tab.get_by_role('button', name='move side up').click()
    page.wait(lambda: page.view('side').locator('kbd').inner_text() == '1', 'order')
    page.tab.locator('#cameras label', has_text='wrist').locator('input').uncheck()
    page.wait(lambda: page.view('wrist').count() == 0, 'the wrist camera is hidden')
    page.tab.reload()
    page.wait_for_images()
    assert page.view('wrist').count() == 0
    assert page.view('side').locator('kbd').inner_text() == '1'
    open_panel(page, '#order')
    page.tab.locator('#cameras label', has_text='wrist').locator('input').check()
    page.tab.get_by_role('button', name='move front up').click()
    page.wait(lambda: page.view('wrist').count() == 1
              and page.view('front').locator('kbd').inner_text() == '1', 'as before')
    page.wait_for_images()
    page.focus('front')


# --- mask

def test_a_mask_is_painted_erased_undone_and_downloaded_as_the_node_reads_it(page, tmp_path):
    page.focus('front')
    view, before = page.view('front'), page.query_id()
    view.get_by_role('button', name='Mask').click()
    assert 'hides in every image' in view.locator('.message').inner_text()

    def paint(start: tuple[float, float], end: tuple[float, float]) -> None:
        page.drag('front', start, end)
    paint((100.0, 100.0), (200.0, 100.0))
    paint((400.0, 300.0), (500.0, 300.0))
    page.screenshot('mask')
    view.get_by_role('button', name='Undo').click()  # the second stroke
    view.get_by_role('button', name='Erase').click()
    paint((200.0, 60.0), (200.0, 140.0))
    with page.tab.expect_download() as download:
        view.get_by_role('button', name='Download').click()
    assert download.value.suggested_filename == 'front_mask.png'
    download.value.save_as(tmp_path / 'mask.png')
    mask = read_mask(tmp_path / 'mask.png')
    assert mask.shape == (480, 640)
    radius_px = 640 * 0.04
    ys, xs = np.nonzero(mask)
    assert (ys.min(), ys.max()) == pytest.approx((100 - radius_px, 100 + radius_px), abs=1.5)
    assert xs.min() == pytest.approx(100 - radius_px, abs=1.5)
    assert xs.max() == pytest.approx(200 - radius_px, abs=1.5), 'the rest is erased'
    assert mask[100, 100:170].all()
    assert 'parameter front.mask_path' in view.locator('.message').inner_text()
    assert page.query_id() == before, 'painting is no click'
    view.get_by_role('button', name='Mask').click()
    assert not view.locator('.mask').is_visible()
    page.click_until_answered(SEEN, until_found=True)


# --- 3D

def test_the_depth_is_a_cloud_of_at_most_50000_points_and_is_turned_and_zoomed(page):
    page.click_until_answered(SEEN)
    page.tab.click('#points')
    scene = page.tab.locator('#scene')
    page.wait(lambda: int(scene.get_attribute('data-points') or 0) > 5000, 'points')
    assert int(scene.get_attribute('data-points')) <= 50_000
    scene.scroll_into_view_if_needed()
    # Points have the colours of the pictures.
    page.wait(lambda: scene.evaluate("""canvas => new Set(new Uint32Array(canvas.getContext('2d')
      .getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size""") > 500, 'colours')
    page.screenshot('cloud')
    yaw, zoom = scene.get_attribute('data-yaw'), scene.get_attribute('data-zoom')
    box = scene.bounding_box()
    page.tab.mouse.move(box['x'] + 100, box['y'] + 100)
    page.tab.mouse.down()
    page.tab.mouse.move(box['x'] + 160, box['y'] + 100, steps=3)
    page.tab.mouse.up()
    page.wait(lambda: scene.get_attribute('data-yaw') != yaw, 'turn')
    page.tab.mouse.wheel(0, -300)
    page.wait(lambda: scene.get_attribute('data-zoom') != zoom, 'zoom')
    page.tab.click('#points')
    assert scene.get_attribute('data-points') == '0'


def test_what_has_not_changed_is_not_drawn_again(page):
    page.click_until_answered(SEEN, until_found=True)
    page.tab.mouse.move(0, 0)
    details, scene = page.tab.locator('.details'), page.tab.locator('#scene')
    details.evaluate('details => { details.scrollTop = 1e6; }')
    page.tab.evaluate("""() => {
      window.drawn = { marks: 0, scene: 0 };
      const count = (name, node, what) => new MutationObserver(() => { window.drawn[name] += 1; })
        .observe(node, what);
      for (const camera of ['front', 'side']) {
        count('marks', document.querySelector(`[data-camera=${camera}] svg`),
          { childList: true, subtree: true, attributes: true });
      }
      count('scene', document.querySelector('#scene'), { attributes: true }); // its size
    }""")

    def wait_for_images(count: int) -> None:
        for _ in range(count):
            stamp = page.view('front').get_attribute('data-stamp')
            page.wait(lambda stamp=stamp: page.view('front').get_attribute('data-stamp') != stamp,
                      'next image')
    wait_for_images(8)
    assert page.tab.evaluate('window.drawn') == {'marks': 0, 'scene': 0}
    scene.scroll_into_view_if_needed()
    page.wait(lambda: page.tab.evaluate('window.drawn.scene') > 1, 'the 3D view, in sight again')


# --- touch

def test_two_fingers_zoom_the_3d_view_and_do_not_turn_it(phone):
    scene = phone.tab.locator('#scene')
    scene.scroll_into_view_if_needed()
    phone.wait(lambda: scene.get_attribute('data-zoom'), '3D view')
    box = scene.bounding_box()
    fingers = phone.context.new_cdp_session(phone.tab)

    def at(*offsets_px: float) -> list[tuple[float, float]]:
        return [(box['x'] + box['width'] / 2 + each, box['y'] + box['height'] / 2)
                for each in offsets_px]
    yaw, zoom = scene.get_attribute('data-yaw'), float(scene.get_attribute('data-zoom'))
    touch(fingers, 'touchStart', *at(-30.0))
    touch(fingers, 'touchStart', *at(-30.0, 30.0))
    for apart in (35.0, 45.0, 60.0):
        touch(fingers, 'touchMove', *at(-apart, apart))
    touch(fingers, 'touchEnd')
    phone.wait(lambda: float(scene.get_attribute('data-zoom')) == pytest.approx(2 * zoom, rel=0.02),
               lambda: f'zoom of {2 * zoom}, but {scene.get_attribute("data-zoom")}')
    assert scene.get_attribute('data-yaw') == yaw
    touch(fingers, 'touchStart', *at(0.0))
    touch(fingers, 'touchMove', *at(40.0))
    touch(fingers, 'touchEnd')
    phone.wait(lambda: scene.get_attribute('data-yaw') != yaw, 'turn by one finger')


def touch(session: Any, kind: str, *points: tuple[float, float]) -> None:
    session.send('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': [
        {'x': x, 'y': y, 'id': index} for index, (x, y) in enumerate(points)]})


@pytest.fixture
def phone(browser, server):
    phone = Page(browser, server.address, width=390, height=844, has_touch=True, is_mobile=True)
    phone.wait_for_images()
    yield phone
    phone.close()


def test_a_long_press_shows_the_loupe_above_the_finger_and_clicks_where_it_leaves(phone):
    start = phone.to_screen_position('front', (320.0, 330.0))
    end = phone.to_screen_position('front', SEEN)
    before = phone.query_id()
    finger = phone.context.new_cdp_session(phone.tab)
    touch(finger, 'touchStart', start)
    loupe = phone.tab.locator('.loupe')
    phone.wait(loupe.is_visible, 'loupe')
    touch(finger, 'touchMove', end)
    phone.tab.wait_for_timeout(100)
    box = loupe.bounding_box()
    assert box['y'] + box['height'] < end[1] - 20, 'the finger does not cover it'
    phone.screenshot('long_press')
    touch(finger, 'touchEnd')
    phone.wait(lambda: phone.query_id() not in ('', before), 'answer')
    mark = phone.view('front').locator('.mark.clicked')
    data = mark.evaluate('mark => ({...mark.dataset})')
    assert (float(data['x']), float(data['y'])) == pytest.approx(SEEN, abs=1.5)
    assert not loupe.is_visible()


@pytest.mark.parametrize(('width', 'height'), [(390, 844), (820, 1180)], ids=['phone', 'tablet'])
def test_every_act_and_its_feedback_is_in_sight_without_scrolling(browser, server, width, height):
    page = Page(browser, server.address, width=width, height=height, has_touch=True,
                is_mobile=True)
    page.wait_for_images()
    page.click_until_answered(SEEN)
    page.tab.locator('#target .place').wait_for()
    page.tab.evaluate('scrollTo(0, 0)')
    for selector in ('#accept', '#clear', '#undo', '#redo', '#target .place', '#note',
                     '[data-camera=front] .stage', '[data-camera=side] .message'):
        # At once: the card's lines are drawn again every second.
        box = page.tab.evaluate(f"document.querySelector('{selector}').getBoundingClientRect()"
                                '.toJSON()')
        assert 0 <= box['y'] < box['y'] + box['height'] <= height, selector
        if selector.startswith('#') and 'target' not in selector and selector != '#note':
            assert box['height'] >= 44, selector
    page.tab.locator('#accept').tap()
    page.wait_for_text('#note', 'accepted')
    page.tab.locator('#clear').tap()
    page.wait(lambda: page.tab.get_attribute('#target', 'data-state') == 'CLEARED', 'cleared')
    page.close()


def test_the_first_stroke_after_a_change_of_the_image_size_is_kept(page):
    page.focus('front')
    view = page.view('front')
    view.get_by_role('button', name='Mask').click()
    view.locator('.mask').evaluate('canvas => { canvas.width = 320; canvas.height = 240; }')
    page.drag('front', (100.0, 100.0), (200.0, 100.0))
    assert view.locator('.mask').evaluate('canvas => canvas.width') == 640
    undo = view.get_by_role('button', name='Undo')
    assert undo.is_enabled()
    undo.click()
    view.get_by_role('button', name='Mask').click()
