"""Several targets by name on the page: each with its row and state; nothing said of another."""
from __future__ import annotations

import subprocess
import sys

import pytest
from chromium import SEEN, Page

from crosspoint_ros.ros.target.targets import MAX_NAME_LETTERS

PLACES = {'cup': SEEN, 'box': (250.0, 330.0), '': (330.0, 300.0)}
REFUSED = (630.0, 200.0)


def find_row(page: Page, name: str):
    return page.tab.locator(f'#targets li[data-name="{name}"]')


def wait_for_row(page: Page, name: str, state: str) -> None:
    row = find_row(page, name)
    page.wait(lambda: row.count() and row.get_attribute('data-state') == state,
              lambda: f'{state} of {name!r}, but {row.all_inner_texts()}')


def wait_for_state(page: Page, state: str) -> None:
    page.wait(lambda: page.tab.get_attribute('#target', 'data-state') == state, state)


def click_for(page: Page, name: str, pixel=None) -> str:
    """Click for the target of a name; return the query."""
    page.tab.fill('#target-name', name)
    page.click_until_answered(pixel or PLACES[name])
    return page.query_id()


def count_standing(page: Page) -> int:
    return page.view('front').locator('.mark.standing').count()


@pytest.fixture
def page(page):
    """The tab with no target; its first click was answered."""
    page.wait(lambda: page.tab.get_attribute('#target', 'data-state') != 'UNKNOWN', 'state')
    if page.tab.is_enabled('#clear'):
        page.tab.click('#clear')
        page.wait(lambda: page.tab.is_disabled('#clear'), 'nothing to clear')
    page.tab.fill('#target-name', '')
    return page


def test_targets_of_two_names_have_their_rows_and_marks_and_the_card_is_of_the_one_without(page):
    cup, box = click_for(page, 'cup'), click_for(page, 'box')
    assert cup != box
    for name in ('cup', 'box'):
        wait_for_row(page, name, 'STANDING')
        assert 'go on: sent, as clicked' in find_row(page, name).inner_text()
    wait_for_state(page, 'CLEARED')
    assert page.tab.inner_text('#more') == '+ 2 named'
    assert page.tab.locator('#names option').evaluate_all(
        'options => options.map(each => each.value)') == ['box', 'cup']
    rows = page.tab.locator('#history li.current').all_inner_texts()
    assert [name for name in ('box', 'cup') if any(name in row for row in rows)] == ['box', 'cup']
    assert len(rows) == 2, 'active of each name'
    assert page.tab.inner_text('#result').startswith('side')
    page.wait_for_text('#result', 'crosspoint_target_box')
    page.wait(lambda: count_standing(page) == 1, 'mark of the cup')
    page.tab.locator('#scene').scroll_into_view_if_needed()
    page.wait(lambda: page.tab.get_attribute('#scene', 'data-targets') == 'box cup', '3D targets')
    page.click_until_answered(PLACES[''])
    wait_for_state(page, 'STANDING')
    page.wait(lambda: count_standing(page) == 2, 'marks of cup and box')
    page.screenshot('named_targets')


def test_the_name_is_for_one_click_and_stays_after_a_refusal(page):
    click_for(page, 'cup')
    page.wait(lambda: page.tab.input_value('#target-name') == '', 'an empty field')
    page.tab.fill('#target-name', 'cup')
    page.click('front', REFUSED)
    page.wait_for_text('#note', 'This click was refused')
    assert page.tab.input_value('#target-name') == 'cup'
    page.click('front', REFUSED)
    page.tab.fill('#target-name', 'box')
    page.wait_for_text('#note', 'This click was refused')
    assert page.tab.input_value('#target-name') == 'box', 'typed meanwhile'


def test_a_name_put_back_while_one_is_about_to_type_gives_way_to_the_typed_one(page):
    click_for(page, 'cup')
    page.tab.fill('#target-name', 'cup')
    x, y = page.to_screen_position('front', REFUSED)
    page.view('front').locator('svg').evaluate("""(svg, [clientX, clientY]) => {
      for (const type of ['pointerdown', 'pointerup', 'click']) {
        svg.dispatchEvent(new PointerEvent(type, { clientX, clientY, detail: 1, bubbles: true }));
      }
      document.querySelector('#target-name').focus();
    }""", [x, y])
    assert page.tab.input_value('#target-name') == '', 'in the field before the refusal'
    page.wait_for_text('#note', 'This click was refused')
    assert page.tab.input_value('#target-name') == 'cup'
    page.tab.keyboard.type('box')
    assert page.tab.input_value('#target-name') == 'box'


def test_a_refused_click_under_one_name_says_nothing_of_another(page):
    click_for(page, 'cup')
    click_for(page, 'box')
    number = page.current_step()
    page.tab.fill('#target-name', 'box')
    page.click('front', REFUSED)
    page.wait_for_text('#note', f'The target of click {number} (box) is still active. This click')
    page.tab.fill('#target-name', '')
    page.click('front', REFUSED)
    page.wait_for_text('#note', 'Unchanged: box, cup. This click was refused')
    for name in ('cup', 'box'):
        assert find_row(page, name).get_attribute('data-state') == 'STANDING'
    assert count_standing(page) == 2, 'their marks stay'


def test_one_is_cleared_by_keyboard_and_the_other_stays_and_both_are_announced(page):
    click_for(page, 'cup')
    box = click_for(page, 'box')
    wait_for_row(page, 'box', 'STANDING')
    assert page.tab.inner_text('#clear') == 'Clear all'
    page.tab.focus('#target-name')
    names = []
    while 'Clear target cup' not in names:
        page.tab.keyboard.press('Tab')
        names.append(page.tab.evaluate('document.activeElement.ariaLabel'))
        assert len(names) < 8, names
    page.tab.keyboard.press('Enter')
    wait_for_row(page, 'cup', 'CLEARED')
    assert 'none: cleared' in find_row(page, 'cup').inner_text()
    assert find_row(page, 'cup').locator('.clear').is_disabled()
    assert find_row(page, 'box').get_attribute('data-state') == 'STANDING'
    page.wait(lambda: 'The target cup has ended: cleared.' in page.tab.text_content('#live'),
              'announcement')
    assert 'The robot has no target' not in page.tab.text_content('#live').partition('cup has')[2]
    assert page.query_id() == box, 'the answer that is shown is still that of the box'
    page.wait(lambda: page.tab.inner_text('#clear') == 'Clear', 'one to clear')
    page.tab.click('#undo')
    wait_for_row(page, 'cup', 'STANDING')
    page.tab.click('#clear')
    for name in ('cup', 'box'):
        wait_for_row(page, name, 'CLEARED')


def test_the_target_without_a_name_is_cleared_alone(page):
    click_for(page, 'cup')
    click_for(page, '')
    wait_for_row(page, '', 'STANDING')
    find_row(page, '').locator('.clear').click()
    wait_for_state(page, 'CLEARED')
    assert find_row(page, 'cup').get_attribute('data-state') == 'STANDING'
    page.wait(lambda: 'The target without a name has ended: cleared.' in page.tab.text_content(
        '#live'), 'announcement')


def test_confirm_is_for_the_answer_that_is_shown_whatever_its_name(page):
    click_for(page, '')
    cup = click_for(page, 'cup')
    page.wait(lambda: page.tab.is_enabled('#accept'), 'something to confirm')
    assert page.tab.inner_text('#accept') == 'Confirm cup', 'the card is of another target'
    page.tab.click('#accept')
    page.wait_for_text(f'#history li[data-query="{cup}"]', 'accepted')
    page.wait(lambda: page.tab.is_disabled('#accept'), 'nothing left to confirm')
    assert page.tab.locator('#history li.current').filter(has_text='not reviewed').count() == 1


@pytest.mark.parametrize('name', ['a cup', '7up', 'x' * 200, 'a\u200bb', '<b>cup</b>'])
def test_a_name_that_cannot_be_is_refused_in_words_and_no_target_changes(page, name):
    cup = click_for(page, 'cup')
    wait_for_row(page, 'cup', 'STANDING')
    page.tab.fill('#target-name', name)
    page.click('front', SEEN)
    page.wait_for_text('#note', 'Unchanged: cup. This click was refused: target_name ')
    assert f'use at most {MAX_NAME_LETTERS} letters' in page.tab.inner_text('#note')
    assert page.tab.locator('#targets li').count() <= 2
    assert find_row(page, 'cup').get_attribute('data-state') == 'STANDING'
    assert page.tab.evaluate('document.documentElement.scrollWidth') == 1280
    page.tab.fill('#target-name', '')
    assert page.tab.locator(f'#history li[data-query="{cup}"].current').count() == 1


def test_a_click_beside_a_held_target_is_the_next_one_and_the_page_says_why(page):
    subprocess.run([sys.executable, '-m', 'crosspoint_ros.cli', 'click', 'front', *map(
        str, SEEN), '--hold', '60'], check=True, capture_output=True, timeout=60)
    page.wait_for_text('#target', 's more')
    assert 'held for' in page.tab.inner_text('#target')
    held = page.tab.inner_text('#target .place')
    click_for(page, '', PLACES['box'])
    wait_for_row(page, 'next', 'STANDING')
    words = 'This click became the target next: the target without a name was held.'
    page.wait_for_text('#note', words)
    assert words in page.tab.inner_text('#result')
    assert page.tab.inner_text('#target .place') == held
    page.screenshot('held_target')
