"""A real headless Chromium, and the built-in kitchen with its page served, for the tests."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kitchen_cameras import RECORDING, moment_of

from crosspoint_ros.ros.processes import NodeProcess

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS = ROOT / 'build' / 'screenshots'
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
         '--disable-background-networking', '--disable-component-update']
WAIT_MS = 20_000
HANDLE = (122.0, 227.0)  # the drawer handle in front, as truth.json has it


def executable() -> str:
    """Return the Chromium of this machine; skip without one, but fail in CI."""
    found = shutil.which('chromium') or shutil.which('chromium-browser')
    if found is None:
        tell = pytest.fail if os.environ.get('CI') == 'true' else pytest.skip
        tell('no chromium on the PATH: apt install chromium')
    return str(found)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser; it ends with the block."""
    api = pytest.importorskip('playwright.sync_api')
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable(), args=FLAGS)
        yield browser
        browser.close()


class WebServer:
    """`crosspoint web` in a process of its own."""

    def __init__(self, log: Path, *options: str, domain: str = '') -> None:
        self.log = log
        environment = {**os.environ, 'PYTHONUNBUFFERED': '1',
                       'ROS_DOMAIN_ID': domain or os.environ['ROS_DOMAIN_ID']}
        with log.open('a') as out:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'crosspoint_ros.cli', 'web', *options], cwd=ROOT,
                stdout=subprocess.PIPE, stderr=out, text=True, env=environment)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith('http://'), log.read_text()
        self.port = int(re.search(r':(\d+)/', self.address)[1])

    def stop(self) -> int:
        """End it as Ctrl-C would, and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(timeout=10)
        self.process.stdout.close()
        return code

    def log_says(self, words: str) -> None:
        """Wait until the log has these words; fail with the log if they do not come."""
        end_s = time.monotonic() + 10
        while words not in self.log.read_text():
            assert time.monotonic() < end_s, self.log.read_text()
            time.sleep(0.02)


@contextmanager
def serving(log: Path, *options: str, domain: str = '') -> Iterator[WebServer]:
    """Run `crosspoint web` until the block ends."""
    server = WebServer(log, *(options or ('--port', '0')), domain=domain)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def cameras(*options: str) -> Iterator[subprocess.Popen]:
    """Publish the kitchen's cameras until the block ends."""
    process = subprocess.Popen([sys.executable, str(ROOT / 'test' / 'kitchen_cameras.py'),
                                *options], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def crosspoint_node(folder: Path, *parameters: str) -> NodeProcess:
    """Start the node on the kitchen's cameras."""
    given = [word for parameter in ('use_sim_time:=false', *parameters)
             for word in ('-p', parameter)]
    return NodeProcess('crosspoint_ros.ros.node', [
        '--params-file', str(ROOT / 'config' / 'demo.yaml'), *given],
        folder / 'crosspoint_node.log',
        {**os.environ, 'PYTHONPATH': str(ROOT / 'test')})  # for the matchers of doubles.py


def truth_of(name: str, camera: str, stamp: str) -> tuple[float, float]:
    """Where the image with that stamp shows a named point of the kitchen."""
    point = next(a for a in RECORDING.affordances if a.name == name)
    moment = moment_of(int(stamp))
    assert moment.camera == camera
    x, y = point.seen[moment].pixel
    return float(x), float(y)


class Page:
    """The page in one tab of the browser, as a person uses it."""

    def __init__(self, browser: Any, address: str, width: int = 1280, height: int = 800,
                 between: Callable[[Any], None] | None = None, **context: Any) -> None:
        self.context = browser.new_context(viewport={'width': width, 'height': height}, **context)
        self.context.set_default_timeout(WAIT_MS)
        self.tab = self.context.new_page()
        if between is not None:
            self.tab.route_web_socket(re.compile('/events$'), between)
        self.errors: list[str] = []
        self.tab.on('pageerror', lambda error: self.errors.append(str(error)))
        self.tab.goto(address)

    def view(self, camera: str) -> Any:
        """The view of a camera."""
        return self.tab.locator(f'.view[data-camera={camera}]')

    def wait_for_pictures(self) -> None:
        """Wait until every view shows one."""
        self.wait(lambda: self.tab.locator('.view').count() > 1
                  and self.tab.locator('.view:not([data-stamp])').count() == 0,
                  lambda: f'pictures; the page says {self.tab.inner_text("body")!r}')

    def wait(self, condition: Callable[[], Any], what: str | Callable[[], str]) -> Any:
        """Wait until a condition holds. (The page's own policy forbids Playwright's evaluated one.)
        """
        end_s = time.monotonic() + WAIT_MS / 1000
        while not (met := condition()):
            if time.monotonic() > end_s:
                told = what if isinstance(what, str) else what()
                raise AssertionError(f'after {WAIT_MS / 1000:g} s no {told}')
            self.tab.wait_for_timeout(20)
        return met

    def place_of(self, camera: str, pixel: tuple[float, float]) -> tuple[float, float]:
        """Where on the screen a pixel of the camera's image is."""
        self.view(camera).scroll_into_view_if_needed()
        box = self.view(camera).locator('svg').bounding_box()
        return (box['x'] + (pixel[0] + 0.5) / 640 * box['width'],
                box['y'] + (pixel[1] + 0.5) / 480 * box['height'])

    def click(self, camera: str, pixel: tuple[float, float]) -> None:
        """Click a pixel of the camera's image."""
        self.tab.mouse.click(*self.place_of(camera, pixel))

    def answered(self, pixel: tuple[float, float] = HANDLE, until_found: bool = False) -> None:
        """Click in front and wait for the answer; again, where a node has just begun to look."""
        def asked() -> Any:
            before = self.query_id()
            self.click('front', pixel)
            self.wait(lambda: self.query_id() not in ('', before), 'answer')
            return not until_found or self.view('side').locator('.mark').count()
        self.wait(asked, 'point found in side')

    def drag(self, camera: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag from one pixel of the camera's image to another."""
        self.tab.mouse.move(*self.place_of(camera, start))
        self.tab.mouse.down()
        self.tab.mouse.move(*self.place_of(camera, end), steps=4)
        self.tab.mouse.up()

    def query_id(self) -> str:
        """Which answer is shown; '' for none."""
        return self.tab.get_attribute('#answer', 'data-query') or ''

    def current(self) -> int:
        """The number of the step that is shown, once the history has it: that comes after it."""
        def number() -> str:
            row = self.tab.locator(f'#history .current[data-query="{self.query_id()}"] b')
            return ''.join(row.all_inner_texts())
        return int(self.wait(number, 'step in the history of the answer that is shown'))

    def found(self, camera: str) -> dict[str, Any]:
        """Wait for the point found in a view; where in which image it is."""
        mark = self.view(camera).locator('.mark.sure, .mark.check')
        mark.wait_for(state='attached')
        data = mark.evaluate('mark => ({...mark.dataset})')
        return {'pixel': (float(data['x']), float(data['y'])), 'stamp': data['stamp'],
                'at': tuple(map(float, data['at'].split()))}

    def until(self, selector: str, words: str) -> None:
        """Wait until an element has these words."""
        try:
            self.wait(lambda: words in self.tab.inner_text(selector), words)
        except AssertionError as error:
            raise AssertionError(f'{selector} says {self.tab.inner_text(selector)!r}, not '
                                 f'{words!r}') from error

    def picture(self, name: str) -> None:
        """Keep a screenshot, to be looked at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.tab.screenshot(path=SCREENSHOTS / f'{name}.png')

    def close(self) -> None:
        """Close the tab; an error of its scripts fails the test."""
        self.context.close()
        assert self.errors == []
