"""The page for people who use a keyboard, a screen reader, zoom, or the system's own colours."""
from __future__ import annotations

from pathlib import Path

import pytest
from chromium import SEEN, Page

DESKTOP = {'width': 1280, 'height': 720}
PHONE = {'width': 390, 'height': 844, 'has_touch': True, 'is_mobile': True}
ZOOMED = {'width': 320, 'height': 256}  # 1280x1024 at 400 %


@pytest.fixture(scope='module')
def answered(browser, server):
    page = Page(browser, server.address)
    page.wait_for_images()
    page.click_until_answered(SEEN, until_found=True)
    page.close()


@pytest.fixture
def open_page(browser, server, answered):
    """Opens the page with an answer on it that can be accepted; closes all at the end."""
    pages = []

    def open_page(**options) -> Page:
        page = Page(browser, server.address, **options)
        pages.append(page)
        page.wait_for_images()
        page.wait(lambda: state_is_known(page), 'state')
        page.view('side').locator('.mark').first.wait_for(state='attached')
        return page
    yield open_page
    for page in pages:
        page.close()


def state_is_known(page: Page) -> bool:
    return page.tab.get_attribute('#target', 'data-state') != 'UNKNOWN'


@pytest.fixture(scope='module')
def axe() -> str:
    package = pytest.importorskip('axe_playwright_python')
    return (Path(package.__file__).parent / 'axe.min.js').read_text()


def find_violations(page: Page) -> list[str]:
    return [f"{found['id']}: {found['help']}: {[node['target'] for node in found['nodes']]}"
            for found in page.tab.evaluate('() => axe.run()')['violations']]


@pytest.mark.parametrize('scheme', ['dark', 'light'])
@pytest.mark.parametrize('screen', [DESKTOP, PHONE, ZOOMED], ids=['desktop', 'phone', 'zoomed'])
def test_axe_finds_no_violation(open_page, axe, screen, scheme):
    page = open_page(color_scheme=scheme, **screen)
    page.tab.evaluate(axe)
    page.tab.fill('#target-name', 'cup')
    page.click_until_answered((330.0, 300.0))
    clear = page.tab.locator('#targets li[data-name=cup] .clear:enabled')
    clear.wait_for()
    assert find_violations(page) == []
    clear.click()
    clear.wait_for(state='detached')
    page.tab.locator('#history button').first.click()
    assert find_violations(page) == []


def test_axe_does_find_what_is_wrong(open_page, axe):
    page = open_page(**DESKTOP)
    page.tab.evaluate(axe)
    page.tab.evaluate("document.querySelector('#status').insertAdjacentHTML('afterend', "
                      "'<img src=icon.svg>')")
    assert any(found.startswith('image-alt') for found in find_violations(page))


# The focused element, or why it is not to be seen: the middle of its visible part.
IN_SIGHT = """() => {
  const element = document.activeElement;
  if (element === document.body) return 'body';
  const box = element.getBoundingClientRect();
  const [left, right] = [Math.max(box.left, 0), Math.min(box.right, innerWidth)];
  const [top, bottom] = [Math.max(box.top, 0), Math.min(box.bottom, innerHeight)];
  const name = element.id || element.className.baseVal || element.className || element.tagName;
  if (right <= left || bottom <= top) return `outside: ${name}`;
  const hit = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  return hit && (element.contains(hit) || hit.contains(element)) ? name
    : `covered: ${name} by ${hit?.className}`;
}"""


@pytest.mark.parametrize('screen', [DESKTOP, PHONE, ZOOMED], ids=['desktop', 'phone', 'zoomed'])
def test_the_focused_element_is_never_covered(open_page, screen):
    page = open_page(**screen)
    page.tab.locator('#accept:enabled').wait_for(state='attached')
    names = []
    for _ in range(40):
        page.tab.keyboard.press('Tab')
        page.tab.wait_for_timeout(30)
        names.append(page.tab.evaluate(IN_SIGHT))
        if names[-1] == 'body':
            break
    assert [name for name in names if name.startswith(('outside', 'covered'))] == []
    assert {'accept', 'clear', 'result', 'scene'} <= set(names)


def test_at_400_percent_everything_reflows_and_can_be_used(open_page):
    page = open_page(**ZOOMED)
    assert page.tab.evaluate('document.documentElement.scrollWidth') == 320
    page.screenshot('zoomed_400')
    box = page.view('front').locator('.stage').bounding_box()
    assert box['width'] >= 310
    assert page.tab.evaluate("getComputedStyle(document.querySelector('.card')).position") \
        == 'static', 'nothing is fixed over the picture'
    for button in page.tab.locator('.tools button').all():
        button.scroll_into_view_if_needed()
        seen = button.bounding_box()
        assert seen['x'] >= 0
        assert seen['x'] + seen['width'] <= 320
    before = page.query_id()
    page.tab.locator('#accept').click()
    page.wait_for_text('#note', 'accepted')
    page.click('front', (250.0, 300.0))
    page.wait(lambda: page.query_id() not in ('', before), 'answer')


def test_in_the_colours_of_the_system_marks_and_states_keep_theirs(open_page):
    page = open_page(forced_colors='active', **DESKTOP)
    page.screenshot('forced_colors')
    colour = page.tab.evaluate("""() => {
      const style = (name) => getComputedStyle(document.querySelector(name));
      return [style('.status .sign').backgroundColor, style('.mark .line').stroke,
        style('body').backgroundColor];
    }""")
    assert colour[0] != colour[2], 'the sign of the status is seen'
    assert colour[1] not in ('none', colour[2])
    edges = page.tab.evaluate("""() => [...document.querySelectorAll('#history li')].map(
      row => [row.className, getComputedStyle(row).borderLeftColor])""")
    current = [edge for name, edge in edges if name == 'current']
    assert current
    assert not set(current) & {edge for name, edge in edges if name != 'current'}


def test_the_history_is_reached_and_opened_by_keyboard(open_page):
    page = open_page(**DESKTOP)
    page.click_until_answered((250.0, 300.0))
    first = page.tab.locator('#history li').nth(1)
    page.tab.locator('#scene').focus()
    for _ in range(12):
        page.tab.keyboard.press('Tab')
        if first.evaluate('row => row.contains(document.activeElement)'):
            break
    page.tab.keyboard.press('Enter')
    page.wait_for_text('[data-camera=front] .message', 'opened again')
    assert first.locator('button').get_attribute('aria-pressed') == 'true'
    page.tab.keyboard.press('Escape')
    page.wait(lambda: 'opened' not in page.view('front').locator('.message').inner_text(), 'live')


def test_clear_and_undo_are_announced(open_page):
    page = open_page(**DESKTOP)
    live = page.tab.locator('#live')
    assert live.get_attribute('aria-live') == 'polite'
    page.tab.keyboard.press('x')
    page.wait(lambda: 'The robot has no target: cleared.' in live.text_content(), 'announcement')
    page.tab.keyboard.press('u')
    # The answer that is back is announced too, before or after its target.
    page.wait(lambda: 'Target of click' in live.text_content().partition('cleared.')[2],
              lambda: f'announcement: {live.text_content()!r}')


FOCUSED = """() => {
  const { id, classList, dataset } = document.activeElement;
  return id || dataset.key || classList[0];
}"""


def test_a_control_that_goes_hands_the_focus_to_its_group_never_to_another_control(open_page):
    page = open_page(**DESKTOP)
    page.click_until_answered(SEEN, until_found=True)
    page.tab.locator('#accept:enabled').press('Enter')  # is disabled
    page.wait(lambda: page.tab.evaluate(FOCUSED) == 'panel', lambda: page.tab.evaluate(FOCUSED))
    page.tab.keyboard.press('Tab')
    assert page.tab.evaluate(FOCUSED) == 'clear', 'goes on from where it was'
    page.tab.fill('#target-name', 'cup')
    page.click_until_answered((330.0, 300.0))
    page.tab.locator('#targets li[data-name=cup] .clear:enabled').press('Enter')
    page.wait(lambda: page.tab.evaluate(FOCUSED) == 'targets', lambda: page.tab.evaluate(FOCUSED))
    page.view('front').locator('.layers button').last.focus()
    page.tab.evaluate('document.activeElement.hidden = true')
    assert page.tab.evaluate(FOCUSED) == 'view'
    page.tab.evaluate("document.activeElement.querySelector('.layers').lastChild.hidden = false")
    page.tab.evaluate('document.activeElement.blur()')
    page.tab.evaluate("document.querySelector('#tools').hidden = true")
    page.tab.evaluate("document.querySelector('#tools').hidden = false")
    assert page.tab.evaluate(FOCUSED) != 'panel', 'nothing had the focus'


def test_a_camera_hidden_by_keyboard_keeps_the_focus_on_its_box(open_page):
    page = open_page(**DESKTOP)
    page.tab.locator('#order summary').click()
    page.tab.locator('#cameras label', has_text='wrist').locator('input').focus()
    for count in (1, 2):
        page.tab.keyboard.press('Space')
        page.wait(lambda count=count: page.tab.locator('.view').count() == count + 1, 'views')
        assert page.tab.evaluate(FOCUSED) == 'show wrist'
