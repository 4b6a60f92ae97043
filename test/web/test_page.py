"""The page in Chromium, with the node on the built-in kitchen."""
from __future__ import annotations

import math
import re

import chromium
import pytest
from chromium import HANDLE, Page
from kitchen_cameras import find_frame


@pytest.fixture(scope='module')
def kitchen(folder):
    with chromium.run_cameras(), chromium.start_node(folder):
        yield


@pytest.fixture(scope='module')
def server(kitchen, folder):
    with chromium.run_web_server(folder / 'web.log') as server:
        yield server


@pytest.fixture(scope='module')
def tab(browser, server):
    tab = Page(browser, server.address)
    tab.wait_for_images()
    tab.click_until_answered(until_found=True)
    yield tab
    tab.close()


def answered(page, pixel=HANDLE):
    """Click in front, and return the point found in side."""
    page.click_until_answered(pixel)
    return page.wait_for_mark('side')


def test_a_click_on_the_drawer_handle_is_found_in_the_other_views_within_3_px(page):
    found = answered(page)
    expected = chromium.get_ground_truth_pixel('drawer handle', 'side', found['stamp'])
    assert math.dist(found['pixel'], expected) < 3
    caption = page.view('side').locator('.message').inner_text()
    # A handle is on a rim: the depth next to it is that of the drawer.
    assert re.fullmatch(r'to be checked \(\d+\.\d, \d+\.\d\) · confidence \d+ %', caption)
    text = page.tab.inner_text('#result')
    assert re.search(r'x −0\.4\d\d\s+y −0\.0\d\d\s+z 0\.1\d\d', text), text
    assert 'crosspoint_target' in text
    assert re.search(r'\d ms', text)
    assert 'found in side' in page.tab.text_content('#live')
    page.screenshot('result')


def test_a_refusal_is_explained_on_the_view_that_refuses(page):
    page.click('front', (5.0, 5.0))
    refused = page.view('side').locator('.message.refused')
    refused.wait_for()
    assert len(refused.inner_text()) > 20
    assert page.view('side').locator('.mark.sure, .mark.check').count() == 0


def test_a_point_is_dragged_accepted_and_undone(page):
    first = answered(page)
    number = page.current_step()
    page.wait_for_text('#history .current', 'not reviewed')
    page.tab.click('#accept')
    page.wait_for_text('#history .current', 'accepted')
    page.wait_for_text('#note', 'accepted')
    moved = (first['pixel'][0] + 2, first['pixel'][1] + 1)
    page.drag('side', first['pixel'], moved)
    page.wait_for_text('#history .current', 'corrected')
    assert page.current_step() == number + 1
    assert math.dist(page.wait_for_mark('side')['pixel'], moved) < 0.8
    page.screenshot('corrected')
    page.tab.click('#undo')
    page.wait(lambda: page.current_step() == number, 'step back')
    assert page.wait_for_mark('side')['pixel'] == pytest.approx(first['pixel'])
    page.tab.click('#redo')
    page.wait(lambda: page.current_step() == number + 1, 'step forward')


def test_a_drag_that_geometry_rejects_is_explained_and_the_point_goes_back(page):
    first = answered(page)
    number = page.current_step()
    page.drag('side', first['pixel'], (first['pixel'][0] + 150, first['pixel'][1] + 120))
    message = page.view('side').locator('.message')
    page.wait(lambda: 'px' in message.inner_text() and 'confidence' not in message.inner_text(),
              'refusal')
    assert page.wait_for_mark('side')['at'] == pytest.approx(first['pixel'], abs=0.01)
    assert page.current_step() == number


def test_a_cleared_target_leaves_the_page_and_undo_brings_it_back(page):
    answered(page)
    page.tab.click('#clear')
    page.wait_for_text('#result', 'Nothing clicked yet')
    assert page.view('side').locator('.mark').count() == 0
    page.tab.click('#undo')
    page.wait_for_mark('side')


def test_a_reload_keeps_the_result(page):
    found = answered(page)
    page.tab.reload()
    page.wait_for_images()
    assert page.wait_for_mark('side') == found
    page.wait_for_text('#history', 'front (122, 227)')


def test_a_mark_follows_its_point_when_the_wrist_moves_and_the_matched_image_comes_back(page):
    wrist = page.view('wrist')
    page.wait(lambda: wrist_marked(page), 'answer in the wrist camera')
    page.wait(lambda: wrist.locator('.mark.tracked').count(), 'motion of the wrist')

    def followed():
        stamp = wrist.get_attribute('data-stamp')
        marks = wrist.locator('.mark.tracked').all()
        if not marks:
            return False
        at = tuple(map(float, marks[0].get_attribute('data-at').split()))
        return stamp == wrist.get_attribute('data-stamp') and math.dist(
            at, chromium.get_ground_truth_pixel('drawer handle', 'wrist', stamp)) < 5

    page.wait(followed, 'mark on the handle')
    page.focus('wrist')
    page.screenshot('tracked')
    wrist.locator('.toggle').click()
    still = page.wait_for_mark('wrist')
    page.wait(lambda: wrist.get_attribute('data-stamp') == still['stamp'], 'matched image')
    assert still['at'] == still['pixel']
    wrist.locator('.toggle').click()
    page.wait(lambda: wrist.get_attribute('data-stamp') != still['stamp'], 'live image')


def wrist_marked(page):
    """Click until the wrist camera sees the handle, which it does not from all its poses."""
    answered(page)
    return page.view('wrist').locator('.mark.sure, .mark.check').count()


def test_two_browsers_see_the_same_result_and_the_same_undo(browser, server, page):
    other = Page(browser, server.address)
    other.wait_for_images()
    found = answered(page)
    other.wait(lambda: other.query_id() == page.query_id(), 'the same answer')
    assert other.wait_for_mark('side')['pixel'] == found['pixel']
    number = other.current_step()
    other.tab.click('#accept')
    page.wait_for_text('#history .current', 'accepted')
    other.tab.click('#undo')
    page.wait(lambda: page.current_step() != number, 'undo of the other')
    other.close()


def test_everything_is_done_by_keyboard_alone(page):
    page.tab.keyboard.press('1')
    for key, times in (('ArrowLeft', 19), ('Shift+ArrowLeft', 8), ('ArrowUp', 1),
                       ('Shift+ArrowUp', 3)):
        for _ in range(times):
            page.tab.keyboard.press(key)
    crosshair = page.view('front').locator('.mark.crosshair')
    assert crosshair.get_attribute('data-at') == '122 227'
    before = page.query_id()
    page.tab.keyboard.press('Enter')
    page.wait(lambda: page.query_id() not in ('', before), 'answer')
    number = page.current_step()
    page.tab.keyboard.press('a')
    page.wait_for_text('#history .current', 'accepted')
    page.tab.keyboard.press('2')
    page.tab.keyboard.press('c')
    page.tab.keyboard.press('Shift+ArrowRight')
    page.tab.keyboard.press('Enter')
    page.wait_for_text('#history .current', 'corrected')
    page.tab.keyboard.press('u')
    page.wait(lambda: page.current_step() == number, 'undo')


def test_on_a_phone_the_page_fits_the_screen_and_a_tap_is_answered(browser, server):
    page = Page(browser, server.address, width=375, height=812, has_touch=True, is_mobile=True)
    page.wait_for_images()
    assert page.tab.evaluate('document.documentElement.scrollWidth') == 375
    before = page.query_id()
    page.tab.touchscreen.tap(*page.to_screen_position('front', HANDLE))
    page.wait(lambda: page.query_id() not in ('', before), 'answer')
    found = page.wait_for_mark('side')
    assert math.dist(found['pixel'],
                     chromium.get_ground_truth_pixel('drawer handle', 'side', found['stamp'])) < 5
    heights_px = page.tab.evaluate("""[...document.querySelectorAll('.tools button')]
        .map(button => button.getBoundingClientRect().height)""")
    assert min(heights_px) >= 44
    page.view('side').scroll_into_view_if_needed()
    page.screenshot('phone')
    page.close()


def test_a_click_carries_the_stamp_of_the_clicked_image(page):
    answered(page)
    page.wait(lambda: page.view('front').locator('.mark.clicked').count(), 'mark of the click')
    clicked = page.view('front').locator('.mark.clicked').get_attribute('data-stamp')
    assert find_frame(int(clicked)).camera == 'front'


def test_the_page_loads_nothing_from_other_hosts(browser, server):
    page = Page(browser, 'about:blank')
    urls = []
    page.tab.on('request', lambda request: urls.append(request.url))
    page.tab.goto(server.address)
    page.wait_for_images()
    assert len(urls) > 8
    assert [url for url in urls if not url.startswith(server.address)
            and not url.startswith('blob:')] == []
    page.close()


@pytest.mark.parametrize('scheme', ['dark', 'light'])
def test_every_text_has_a_contrast_of_4_5(browser, server, scheme):
    page = Page(browser, server.address, color_scheme=scheme)
    page.wait_for_images()
    answered(page)
    faint = page.tab.evaluate(CONTRASTS)
    assert len(faint['measured']) > 20
    assert faint['low'] == []
    page.screenshot(scheme)
    page.close()


# WCAG 2.1 contrast of each text with the first opaque background behind it. Disabled controls are
# exempt; marks on images have a halo instead.
CONTRASTS = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
    v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const background = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const measured = [], low = [];
  for (const e of document.querySelectorAll('body *:not(svg *)')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.getClientRects().length) continue;
    if (e.closest('[disabled], .visually-hidden, noscript')) continue;
    const [a, b] = [rgb(getComputedStyle(e).color), background(e)].map(light);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    measured.push(contrast);
    if (contrast < 4.5) low.push([e.className || e.tagName, e.textContent, contrast]);
  }
  return { measured, low };
}"""
