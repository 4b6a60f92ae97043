"""Times the page in a real Chromium: until it shows all cameras, and from a click to the mark."""
from __future__ import annotations

import importlib
import importlib.util
import shutil
import time
from typing import Any

FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
         '--disable-background-networking', '--disable-component-update']
PATIENCE_MS = 20_000
USABLE = """() => document.querySelectorAll('.view').length === 3
  && !document.querySelector('.view:not([data-stamp])') && document.querySelector('.status.ready')
  ? performance.now() : 0"""
# From the press to the picture after the mark was put in, and the matcher's own share.
WATCH = """() => {
  window.pressed_ms = window.marked_ms = 0;
  document.addEventListener('pointerdown', e => { window.pressed_ms = e.timeStamp; }, true);
  new MutationObserver(() => {
    if (!window.marked_ms && document.querySelector('[data-camera=side] .grip')) {
      requestAnimationFrame(() => { window.marked_ms = performance.now(); });
    }
  }).observe(document.querySelector('[data-camera=side] svg'), { childList: true });
}"""
AGAIN = '() => { window.marked_ms = 0; }'
PASSED = '() => window.marked_ms && window.marked_ms - window.pressed_ms'
MATCHING = "() => Number(document.querySelector('#answer').dataset.matchMs)"


def find() -> str:
    """Return what keeps Chromium from being driven; '' if nothing does."""
    if shutil.which('chromium') is None:
        return 'no chromium on the PATH'
    if importlib.util.find_spec('playwright') is None:
        return 'playwright is not installed'
    return ''


def usable_and_mark_ms(address: str, times: int) -> tuple[list[float], list[float]]:
    """Return, each so often, the time to a usable page, and from click to mark less matching."""
    api = importlib.import_module('playwright.sync_api')
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which('chromium'), args=FLAGS)
        usable = [_usable_ms(browser, address) for _ in range(times)]
        marks = _mark_ms(browser, address, times)
        browser.close()
    return usable, marks


def _usable_ms(browser: Any, address: str) -> float:
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    passed_ms = _until(page, USABLE)
    context.close()
    return passed_ms


def _mark_ms(browser: Any, address: str, times: int) -> list[float]:
    context = browser.new_context(viewport={'width': 1280, 'height': 800})
    page = context.new_page()
    page.goto(address)
    _until(page, USABLE)
    page.evaluate(WATCH)
    box = page.locator('[data-camera=front] svg').bounding_box()
    passed = []
    for index in range(times):
        page.evaluate(AGAIN)
        page.mouse.click(box['x'] + box['width'] * (0.4 + 0.2 * index / times),
                         box['y'] + box['height'] * 0.5)
        passed.append(_until(page, PASSED) - float(page.evaluate(MATCHING)))
    context.close()
    return passed


def _until(page: Any, expression: str) -> float:
    """Wait until an expression is not zero, and return it."""
    end_s = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < end_s:
        value = page.evaluate(expression)
        if value:
            return float(value)
        page.wait_for_timeout(10)
    raise TimeoutError(f'the page is not there after {PATIENCE_MS / 1000:g} s: {expression}')
