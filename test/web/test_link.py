"""The level of each image follows the measured link."""
from __future__ import annotations

import pytest

from crosspoint_ros.web.image_streams import JPEG_LEVELS
from crosspoint_ros.web.link import FIRST_LEVEL, LinkMonitor

SIZES = [60_000, 25_000, 14_000, 7_000, 4_500, 2_500]  # bytes of a 640x480 image at each level
WIDTHS = {'front': 900, 'side': 280, 'wrist': 280}
WORST = len(JPEG_LEVELS) - 1


class Link:
    """A browser that requests the next image once it has the last, over one link."""

    def __init__(self, bytes_per_s: float, delay_s: float) -> None:
        self.bytes_per_s, self.delay_s, self.now_s = bytes_per_s, delay_s, 0.0
        self.sent_before_bytes = 0  # of an event
        self.monitor = LinkMonitor(lambda: self.now_s)
        for camera, width in WIDTHS.items():
            self.monitor.add_request(camera, width)

    def run(self, rounds: int) -> tuple[dict[str, int], float]:
        """Return the levels of the last round, and how long it took."""
        for _ in range(rounds):
            begun_s, levels = self.now_s, {}
            arrives_s = self.now_s + self.sent_before_bytes / self.bytes_per_s
            self.sent_before_bytes = 0
            arrivals = []
            for camera in WIDTHS:
                levels[camera] = self.monitor.choose_level(camera)
                size = SIZES[levels[camera]]
                self.monitor.add_image(camera, levels[camera], size)
                arrives_s += size / self.bytes_per_s
                arrivals.append((camera, arrives_s + self.delay_s))
            for camera, at_s in arrivals:
                self.now_s = at_s
                self.monitor.add_request(camera, WIDTHS[camera])
        return levels, self.now_s - begun_s


def test_a_fast_link_gets_the_best_images_after_the_first():
    link = Link(20e6, 0.002)
    first, _ = link.run(1)
    assert first == dict.fromkeys(WIDTHS, FIRST_LEVEL)
    assert link.run(4)[0] == dict.fromkeys(WIDTHS, 0)


@pytest.mark.parametrize('bytes_per_s', [30_000, 60_000, 120_000])
def test_a_slow_link_gets_images_that_are_in_time(bytes_per_s):
    link = Link(bytes_per_s, 0.2)
    for _ in range(10):
        levels, round_s = link.run(3)
        assert round_s <= 0.6
    assert levels['front'] < levels['side'], 'the large image is the better one'


def test_a_link_that_becomes_slow_or_fast_is_noticed():
    link = Link(20e6, 0.002)
    link.run(20)
    link.bytes_per_s, link.delay_s = 60_000, 0.2
    _, first_s = link.run(1)
    link.run(1)
    assert first_s > 2.0
    assert link.run(2)[1] <= 0.6
    link.bytes_per_s, link.delay_s = 20e6, 0.002
    assert link.run(30)[0] == dict.fromkeys(WIDTHS, 0)


def test_a_hidden_page_is_not_taken_for_a_slow_link():
    link = Link(20e6, 0.002)
    link.run(10)
    for camera in WIDTHS:
        link.monitor.add_image(camera, 0, SIZES[0])
    link.now_s += 3600
    for camera, width in WIDTHS.items():
        link.monitor.add_request(camera, width, is_late=True)
    assert link.run(1)[0] == dict.fromkeys(WIDTHS, 0)


def test_an_earlier_image_may_be_the_first_that_a_camera_sends():
    link = Link(60_000, 0.1)
    link.run(3)
    assert link.monitor.choose_level('unasked') in range(len(JPEG_LEVELS))


@pytest.mark.parametrize('bytes_per_s', [30_000, 60_000, 1e6])
def test_a_link_is_measured_also_while_a_cloud_is_sent(bytes_per_s):
    link = Link(bytes_per_s, 0.1)
    link.run(5)
    before = link.monitor.bytes_per_s
    assert 0.3 * bytes_per_s < before < 3 * bytes_per_s
    link.monitor.add_event(int(bytes_per_s))
    link.sent_before_bytes = int(bytes_per_s)
    link.run(1)
    assert link.monitor.bytes_per_s > 0.3 * bytes_per_s


def test_the_worst_level_is_the_last_resort():
    assert set(Link(2_000, 1.0).run(6)[0].values()) == {WORST}
