"""The page's texts: one file per language, nothing visible outside of them; shortcuts off."""
from __future__ import annotations

import json
import re
from typing import Any

import pytest
from chromium import ROOT, SEEN, Page

PAGE = ROOT / 'crosspoint_ros' / 'web' / 'page'
REFUSED = (630.0, 200.0)
LANGUAGES = ('en', 'de')
UNITS = {'m', 'mm', 'px', 's', 'ms', 'min', 'h', 'x', 'y', 'z', 'crosspoint', 'English', 'Deutsch'}
# What is read or heard: texts, and the attributes that are.
READ_ALL = """() => {
  const texts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) { // whole, where a text has keys of the keyboard in it
    if (walk.currentNode.parentNode.closest('noscript')) continue;
    texts.push((walk.currentNode.parentNode.closest('[data-text]:has(kbd)')
      ?? walk.currentNode).textContent);
  }
  for (const node of document.body.querySelectorAll('*')) {
    for (const name of ['title', 'aria-label', 'placeholder', 'alt', 'data-empty']) {
      texts.push(node.getAttribute(name) ?? '');
    }
  }
  return texts.filter(text => text.trim());
}"""


def read_strings(language: str) -> dict[str, str]:
    lines = re.findall(r"^  '([\w.]+)': '(.*)',$", (PAGE / f'strings_{language}.js').read_text(),
                       re.MULTILINE)
    assert len(lines) == len(dict(lines)) > 100, 'a line is not read, or a key is there twice'
    return dict(lines)


def test_all_languages_have_the_same_keys_and_placeholders():
    english = read_strings('en')
    for language in LANGUAGES[1:]:
        strings = read_strings(language)
        assert strings.keys() == english.keys()
        for key, text in strings.items():
            for pattern in (r'\{\w+\}', '`[^`]*`'):
                assert sorted(re.findall(pattern, text)) == sorted(
                    re.findall(pattern, english[key])), key


def test_every_key_is_used_and_every_used_key_is_known():
    sources = '\n'.join(path.read_text() for path in PAGE.iterdir()
                        if path.suffix in ('.js', '.html') and not path.stem.startswith('strings_'))
    for key in read_strings('en'):
        prefix, _, name = key.partition('.')
        is_listed = f"listTexts('{prefix}'" in sources and re.search(rf"'{name}'", sources)
        assert re.search(rf"['\"]{re.escape(key)}['\"]", sources) or is_listed \
            or f't(`{prefix}.${{' in sources, f'unused: {key}'
    prefixes = '|'.join({key.partition('.')[0] for key in read_strings('en')})
    named = re.findall(rf"['\"]((?:{prefixes})\.\w+)['\"]", sources)
    assert set(named) <= read_strings('en').keys()


def test_the_document_itself_has_no_text():
    body = (PAGE / 'index.html').read_text().partition('<body>')[2]
    body = re.sub(r'<noscript>.*</noscript>', '', body)  # nothing fills it in
    assert re.sub(r'<[^>]*>', '', body).split() == ['crosspoint']
    assert not re.search(r'\s(title|placeholder|alt|aria-label)="[^"]', body)
    assert not re.search(r'content: "[^"]*[A-Za-z]{2}', (PAGE / 'style.css').read_text())


# --- in the browser

@pytest.fixture
def open_page(browser, server):
    pages = []

    def open_page(**options) -> Page:
        pages.append(Page(browser, server.address, height=720, **options))
        return pages[-1]
    yield open_page
    for page in pages:
        page.close()


def list_values(content: Any) -> list[str]:
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [value for each in content for value in list_values(each)]
    return [content] if isinstance(content, str) else []


def act(page: Page) -> None:
    """Show as much as a few clicks can."""
    page.wait_for_images()
    page.click_until_answered(SEEN, until_found=True)
    for panel in ('#limits', '#order', '#check'):
        page.tab.locator(panel).locator('summary').click()
    page.tab.locator('#limit-min_confidence').wait_for()
    page.tab.click('#accept')
    page.tab.locator('#history li button').first.click()
    page.wait(lambda: page.tab.locator('#history [aria-pressed=true]').count(), 'an open answer')


def test_a_german_browser_gets_a_german_page_and_the_selection_is_kept(open_page):
    page = open_page(locale='de-DE')
    act(page)
    assert page.tab.get_attribute('html', 'lang') == 'de'
    for selector, text in (('#target-title', 'Ziel'), ('#clear', 'Löschen'),
                           ('#result-title', 'Antwort auf Klick'), ('#history', 'angenommen'),
                           ('#status', 'ist bereit')):
        page.wait_for_text(selector, text)
    assert re.search('[○△] (sicher|zu prüfen)', page.tab.inner_text('#history'))
    assert page.tab.get_attribute('#tools', 'aria-label') == 'Ziel und Antworten'
    page.screenshot('german')
    page.tab.select_option('#language', 'en')
    page.wait(lambda: page.tab.get_attribute('html', 'lang') == 'en', 'English')
    page.wait_for_text('#clear', 'Clear')
    page.tab.reload()
    page.wait_for_text('#clear', 'Clear')


def test_a_browser_of_another_language_gets_english(open_page):
    page = open_page(locale='fi-FI')
    page.wait_for_text('#clear', 'Clear')
    assert page.tab.get_attribute('html', 'lang') == 'en'


def test_nothing_that_is_read_is_outside_of_the_files(open_page, browser, server):
    """With marked strings, what has no mark is a name, a unit, or a message of the server."""
    marked = (PAGE / 'strings_en.js').read_text()
    marked = re.sub(r"^(  '[\w.]+': ')(.*)(',)$", r'\1⟦\2⟧\3', marked, flags=re.MULTILINE)
    messages = []
    page = Page(browser, 'about:blank', locale='de', height=720)
    page.tab.route('**/strings_de.js', lambda route: route.fulfill(
        body=marked, content_type='text/javascript; charset=utf-8'))
    page.tab.on('websocket', lambda socket: socket.on(
        'framereceived', lambda message: messages.append(message)))
    page.tab.goto(server.address)
    act(page)
    page.tab.keyboard.press('Escape')
    page.click('front', REFUSED)
    page.view('side').locator('.message.refused').wait_for()
    texts = page.tab.evaluate(READ_ALL)
    page.close()
    assert sum('⟦' in text for text in texts) > 60
    sent = ' '.join(value for each in messages if isinstance(each, str)
                    for value in list_values(json.loads(each)))
    known = UNITS | set(re.findall(r'\w+', sent))
    for text in texts:
        rest = text
        while rest != (rest := re.sub('⟦[^⟦⟧]*⟧', ' ', rest)):
            pass
        words = {word for word in re.findall(r'\w+', rest) if re.search(r'[^\W\d_]', word)}
        assert words <= known, text


# --- shortcuts (WCAG 2.1.4)

def test_shortcuts_of_one_character_can_be_switched_off(open_page):
    page = open_page(locale='en-GB')
    page.wait_for_images()
    page.click_until_answered(SEEN, until_found=True)
    page.wait(lambda: page.tab.is_enabled('#clear'), 'a target')
    box = page.tab.locator('#shortcuts')
    assert page.tab.get_attribute('#clear', 'aria-keyshortcuts') == 'x'
    box.uncheck()
    assert page.tab.get_attribute('#clear', 'aria-keyshortcuts') is None
    page.tab.reload()
    page.wait_for_images()
    page.wait(lambda: page.tab.is_enabled('#clear'), 'the target')
    assert not box.is_checked(), 'kept by the browser'
    for key in 'axu2':
        page.tab.keyboard.press(key)
    page.tab.wait_for_timeout(500)
    assert page.tab.is_enabled('#clear'), 'the target is still there'
    assert 'focused' in page.view('front').get_attribute('class')
    box.check()
    page.tab.keyboard.press('2')
    assert 'focused' in page.view('side').get_attribute('class')
    page.tab.keyboard.press('x')
    page.wait(lambda: page.tab.get_attribute('#target', 'data-state') == 'CLEARED', 'cleared')
