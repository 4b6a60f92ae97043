"""The page as an operator's instrument: what it says of the target, and how it is judged."""
from __future__ import annotations

import json
import re
import time

import pytest
from chromium import SEEN, Page

UUID = re.compile(r'[0-9a-f]{8}-[0-9a-f]{4}-')
EPOCH = re.compile(r'\b1\d{9}\b')
NODE_PARAMETERS = ('publish_target:=on_accept',)
REFUSED = (630.0, 200.0)


def state_of(page: Page) -> str:
    return page.tab.get_attribute('#target', 'data-state')


def wait_for_state(page: Page, state: str) -> None:
    page.wait(lambda: state_of(page) == state, lambda: f'{state}, but {state_of(page)}')


def send(page: Page, pixel=SEEN) -> int:
    """Click, send the target to the robot, and return the number of the click."""
    page.click_until_answered(pixel)
    wait_for_state(page, 'PENDING')
    page.wait(lambda: page.tab.is_enabled('#accept'), 'something to send')
    page.tab.click('#accept')
    wait_for_state(page, 'STANDING')
    return page.current_step()




# --- the target

def test_the_target_is_sent_by_a_person_and_the_page_says_what_the_robot_has(page):
    page.click_until_answered(SEEN)
    wait_for_state(page, 'PENDING')
    assert page.tab.inner_text('#accept') == 'Send to robot'
    assert 'waits' in page.tab.inner_text('#target-state')
    number = send(page)
    page.wait_for_text('#target', 's ago')
    text = page.tab.inner_text('#target')
    assert re.search(r'x −?\d\.\d{3}\s+y −?\d\.\d{3}\s+z −?\d\.\d{3} m', text), text
    assert re.search(r'(sure|to be checked) · \d+ % · ±\d+ mm', text), text
    assert re.search(rf'click {number} · since \d\d:\d\d:\d\d \(\d', text), text
    assert re.search(r'crosspoint_target_\d+ in base_link', text), text
    page.screenshot('target')


def test_a_refused_click_leaves_the_target_in_sight_and_it_can_be_cleared(page):
    number = send(page)
    card = page.tab.locator('#target .place').inner_text()
    marks = page.view('side').locator('.mark').count()
    page.click('front', REFUSED)
    page.wait_for_text('#note', 'This click was refused: ')
    assert f'The target of click {number} is still active.' in page.tab.inner_text('#note')
    assert page.tab.locator('#target .place').inner_text() == card
    assert state_of(page) == 'STANDING'
    assert marks == page.view('side').locator('.mark.standing').count() == 1
    assert page.view('front').locator('.mark.standing').count() == 1
    page.screenshot('refused')
    assert page.tab.is_enabled('#clear')
    page.tab.click('#clear')
    wait_for_state(page, 'CLEARED')
    page.wait(lambda: page.tab.is_disabled('#clear'), 'nothing to clear')
    assert page.tab.locator('.mark.standing').count() == 0
    page.tab.click('#undo')
    wait_for_state(page, 'STANDING')


def test_no_sentence_has_an_identifier_or_epoch_seconds(page):
    send(page)
    page.click('front', REFUSED)
    page.wait_for_text('#note', 'This click was refused: ')
    page.tab.click('#undo')
    page.wait_for_text('#note', 'undone')
    page.tab.click('#redo')
    page.wait_for_text('#note', 'redone')
    text = page.tab.inner_text('body')
    titles = page.tab.evaluate("[...document.querySelectorAll('[title]')].map(e => e.title)")
    for each in (text, *titles):
        assert not UUID.search(each), each
        assert not EPOCH.search(each), each
    assert UUID.search(page.query_id())


# --- age

class Link:
    """A link to the server that delays images, and may change their headers."""

    def __init__(self) -> None:
        self.delay_s, self.change = 0.0, None
        self._held: list = []

    def __call__(self, socket) -> None:
        server = socket.connect_to_server()

        def on_message(message) -> None:
            if isinstance(message, bytes):
                if self.change is not None:
                    message = self._rewrite(message)
                if self.delay_s:
                    self._held.append((time.monotonic() + self.delay_s, socket, message))
                    return
            socket.send(message)
        server.on_message(on_message)

    def _rewrite(self, message: bytes) -> bytes:
        length = int.from_bytes(message[:4], 'big')
        header = json.loads(message[4:4 + length])
        self.change(header)
        head = json.dumps(header).encode()
        return len(head).to_bytes(4, 'big') + head + message[4 + length:]

    def release(self, all_of_them: bool = False) -> None:
        """Deliver what has been delayed for long enough."""
        while self._held and (all_of_them or self._held[0][0] < time.monotonic()):
            _, socket, message = self._held.pop(0)
            socket.send(message)


@pytest.fixture
def link(browser, server):
    link = Link()
    page = Page(browser, server.address, between=link, height=720)
    link.page = page
    page.wait_for_images()
    yield link
    page.close()


def test_an_old_picture_shows_its_age_and_a_click_on_it_is_answered_on_that_very_frame(link):
    page, badge = link.page, link.page.view('front').locator('.badge')
    page.wait_for_text('[data-camera=front] .badge', 'live')
    link.delay_s = 0.8

    def is_old() -> bool:
        link.release()
        return 'old' in badge.get_attribute('class')

    page.wait(is_old, 'age')
    assert re.fullmatch(r'\d\.\d s old', badge.inner_text())
    before = page.query_id()
    shown = page.view('front').get_attribute('data-stamp')
    page.click('front', SEEN)

    def answered() -> bool:
        link.release()
        return page.query_id() not in ('', before)

    page.wait(answered, 'answer')
    mark = page.view('front').locator('.mark.clicked')
    assert mark.get_attribute('data-stamp') == shown


def test_a_click_on_a_picture_that_the_node_no_longer_has_is_refused_in_words(link):
    page, badge = link.page, link.page.view('front').locator('.badge')
    link.delay_s = 60.0
    # The node keeps images for 2 s; after 3.5 s the page takes none of the clicks itself.
    page.wait(lambda: re.fullmatch(r'2\.[3-9] s old', badge.inner_text()), 'age')
    page.click('front', SEEN)
    page.wait_for_text('#note', 'This click was refused: ')
    assert re.search(r'no image of stamp \d\d:\d\d:\d\d\.\d{3}', page.tab.inner_text('#note'))
    link.release(all_of_them=True)


def test_a_mark_keeps_its_place_and_fades_while_tf_is_behind(link):
    page = link.page
    page.click_until_answered(SEEN)
    mark = page.view('side').locator('.mark.sure, .mark.check')
    mark.wait_for(state='attached')
    at = mark.get_attribute('data-at')
    link.change = lambda header: header.update(moved=None, mark=None)
    page.wait(lambda: 'late' in (mark.get_attribute('class') or ''), 'fading')
    assert mark.get_attribute('data-at') == at
    assert 'tracked' not in mark.get_attribute('class')
    link.change = None
    page.wait(lambda: 'late' not in mark.get_attribute('class'), 'certainty')


# --- click and judge

def region(page: Page, camera: str = 'front') -> list[float]:
    box = page.view(camera).locator('svg').get_attribute('viewBox')
    return [float(v) for v in box.split()]


def test_the_wheel_zooms_at_the_cursor_a_drag_pans_and_a_click_hits_that_pixel(page):
    screen = page.to_screen_position('front', SEEN)
    page.tab.mouse.move(*screen)
    assert page.tab.locator('.loupe').is_visible()
    page.screenshot('loupe')
    for _ in range(4):
        page.tab.mouse.wheel(0, -200)
    page.wait(lambda: region(page)[2] < 200, 'zoom')
    before, shown = page.query_id(), region(page)
    page.tab.mouse.down()
    page.tab.mouse.move(screen[0] - 60, screen[1] - 40, steps=3)
    page.tab.mouse.up()
    assert region(page)[0] > shown[0] + 5
    assert region(page)[1] > shown[1] + 3
    assert page.query_id() == before, 'a pan is not a click'
    page.tab.mouse.move(*screen, steps=1)
    page.tab.mouse.down()
    page.tab.mouse.move(screen[0] + 60, screen[1] + 40, steps=3)
    page.tab.mouse.up()
    page.tab.mouse.move(*screen)
    page.screenshot('zoomed')
    page.tab.mouse.click(*screen)
    page.wait(lambda: page.query_id() not in ('', before), 'answer')
    data = page.view('front').locator('.mark.clicked').evaluate('mark => ({...mark.dataset})')
    assert float(data['x']) == pytest.approx(SEEN[0], abs=1.0)
    assert float(data['y']) == pytest.approx(SEEN[1], abs=1.0)
    page.tab.keyboard.press('1')
    page.tab.keyboard.press('0')
    assert region(page) == [-0.5, -0.5, 640, 480]


def test_the_marks_leave_the_judged_pixel_free(page):
    page.click_until_answered(SEEN)
    page.focus('side')
    free_px = page.tab.evaluate("""() => Math.min(...[...document.querySelectorAll(
        '.mark .line > *, .mark .halo > *')].map(shape => {
      if (getComputedStyle(shape).fill !== 'none') return 0;
      const points = Array.from({ length: 100 }, (_, i) => shape.getPointAtLength(
        shape.getTotalLength() * i / 99));
      return Math.min(...points.map(({ x, y }) => Math.hypot(x, y)));
    }))""")
    page.focus('front')
    assert free_px >= 3


SHARE = """() => {
  let area = 0;
  for (const stage of document.querySelectorAll('.stage')) {
    const clip = stage.closest('.chips')?.getBoundingClientRect();
    const box = stage.getBoundingClientRect();
    const left = Math.max(box.left, clip?.left ?? 0, 0);
    const right = Math.min(box.right, clip?.right ?? innerWidth, innerWidth);
    const top = Math.max(box.top, clip?.top ?? 0, 0);
    const card = document.querySelector('.card');
    const floor = getComputedStyle(card).position === 'fixed'
      ? card.getBoundingClientRect().top : innerHeight;
    const bottom = Math.min(box.bottom, clip?.bottom ?? innerHeight, floor);
    area += Math.max(right - left, 0) * Math.max(bottom - top, 0);
  }
  return area / (innerWidth * innerHeight);
}"""


@pytest.mark.parametrize(('width', 'height', 'least'), [
    (1280, 720, 0.55), (1440, 900, 0.60), (390, 844, 0.55)])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_most_of_the_screen_is_picture(browser, server, width, height, least, scheme):
    page = Page(browser, server.address, width=width, height=height, color_scheme=scheme,
                has_touch=width < 500, is_mobile=width < 500)
    page.wait_for_images()
    page.click_until_answered(SEEN)
    page.tab.mouse.move(0, 0)
    page.screenshot(f'operator_{width}x{height}_{scheme}')
    share = page.tab.evaluate(SHARE)
    print(f'{width}x{height}: {share:.3f} of the screen is picture')
    assert share >= least
    assert page.tab.evaluate('document.documentElement.scrollWidth') == width
    if (width, height) == (1280, 720):
        assert page.view('front').locator('.stage').bounding_box()['width'] >= 720
    page.close()


def test_nothing_moves_over_thirty_clicks(browser, server):
    page = Page(browser, server.address, height=720)
    page.wait_for_images()
    page.click_until_answered(SEEN)
    page.tab.wait_for_timeout(500)
    page.tab.evaluate("""() => {
      window.shift = 0;
      new PerformanceObserver(list => {
        for (const entry of list.getEntries()) window.shift += entry.value;
      }).observe({ type: 'layout-shift' });
    }""")
    for count in range(1, 31):
        page.click('front', REFUSED if count % 3 == 0 else (200.0 + 5 * (count % 40), 300.0))
        page.tab.wait_for_timeout(350)
        if count % 7 == 0 and page.tab.is_enabled('#accept'):
            page.tab.click('#accept')
        if count % 11 == 0 and page.tab.is_enabled('#clear'):
            page.tab.click('#clear')
    shift = page.tab.evaluate('window.shift')
    print(f'layout shift {shift:.4f}')
    assert shift <= 0.02
    page.close()
