"""Pictures as RViz gets them, over real DDS: what is sent when, and what becomes of clicks."""
from __future__ import annotations

import array
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest
from crosspoint_ros.msg import Status
from geometry_msgs.msg import Point
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from two_camera_rig import EYES, LENS, Rig, run_rig
from visualization_msgs.msg import (
    InteractiveMarker,
    InteractiveMarkerControl,
    InteractiveMarkerFeedback,
    InteractiveMarkerUpdate,
    Marker,
)
from visualization_msgs.srv import GetInteractiveMarkers

from crosspoint_ros.core.datatypes import Intrinsics, Rejected
from crosspoint_ros.ros.node.image_buffer import ImageBuffer
from crosspoint_ros.ros.node.query_queue import MAX_QUEUED
from crosspoint_ros.ros.node.query_server import ServerState
from crosspoint_ros.ros.rviz.image_markers import PERIOD_S
from crosspoint_ros.ros.rviz.image_mesh import PLANE_M

CLICK, DOWN = InteractiveMarkerFeedback.BUTTON_CLICK, InteractiveMarkerFeedback.MOUSE_DOWN
PIXEL = (100.0, 80.0)


class Watcher:
    """What RViz does: listens to updates, keeps the markers, and clicks."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.updates = rig, list[InteractiveMarkerUpdate]()
        self.arrivals_s = list[float]()
        self.shown = dict[str, InteractiveMarker]()
        self._feedback = rig.cameras.create_publisher(
            InteractiveMarkerFeedback, '/crosspoint/pictures/feedback', QoSProfile(depth=100))
        self._everything = rig.cameras.create_client(
            GetInteractiveMarkers, '/crosspoint/pictures/get_interactive_markers')
        self.look()
        rig.until(self._feedback.get_subscription_count, what='the feedback of the pictures')

    def look(self) -> None:
        """Listen to updates."""
        self._updates = self.rig.cameras.create_subscription(
            InteractiveMarkerUpdate, '/crosspoint/pictures/update', self._take,
            QoSProfile(depth=100))

    def look_away(self) -> None:
        """Listen no more."""
        self.rig.cameras.destroy_subscription(self._updates)

    def close(self) -> None:
        """Hold nothing of rclpy's, or the participant would live on in a later test."""
        node = self.rig.cameras
        node.destroy_publisher(self._feedback)
        node.destroy_client(self._everything)
        node.destroy_subscription(self._updates)
        del self._feedback, self._everything, self._updates

    def _take(self, update: InteractiveMarkerUpdate) -> None:
        self.updates.append(update)
        self.arrivals_s.append(time.monotonic())
        self.shown.update({marker.name: marker for marker in update.markers})
        for name in update.erases:
            self.shown.pop(name, None)

    def everything(self) -> dict[str, InteractiveMarker]:
        """Ask the service, as RViz does when it begins."""
        self.rig.until(self._everything.service_is_ready)
        asked = self._everything.call_async(GetInteractiveMarkers.Request())
        self.rig.until(asked.done)
        return {marker.name: marker for marker in asked.result().markers}

    def sees(self, stamp_ns: int, camera: str = 'front') -> InteractiveMarker:
        """Wait for the picture of that stamp."""
        name = f'{camera}@{stamp_ns}'
        self.rig.until(lambda: camera in self.shown and control(self.shown[camera]).name == name,
                       what=f'{name}; there is {list(self.shown)}')
        return self.shown[camera]

    def click(self, pixel: tuple[float, float] = PIXEL, camera: str = 'front',
              marker: InteractiveMarker | None = None, event: int = CLICK,
              **changed: Any) -> None:
        """Send the feedback of RViz for a pixel: a point in the frame of the marker's header."""
        marker = self.shown[camera] if marker is None else marker
        x, y, z = (LENS.unproject(np.array(pixel)) / LENS.unproject(np.array(pixel))[2] * PLANE_M)
        self._feedback.publish(InteractiveMarkerFeedback(**{
            'header': marker.header, 'client_id': '/rviz', 'marker_name': marker.name,
            'control_name': control(marker).name, 'event_type': event,
            'mouse_point': Point(x=x, y=y, z=z), 'mouse_point_valid': True, **changed}))


def control(marker: InteractiveMarker) -> InteractiveMarkerControl:
    (button,) = marker.controls
    return button


def surface(marker: InteractiveMarker) -> Marker:
    (mesh,) = control(marker).markers
    return mesh


def show(rig: Rig, seed: int) -> int:
    """Let every camera show another scene, and return its stamp."""
    coarse = np.random.default_rng(seed).integers(30, 225, (15, 20, 3), np.uint8)
    scene = cv2.resize(coarse, (LENS.width_px, LENS.height_px), interpolation=cv2.INTER_NEAREST)
    for picture in rig.cameras.pictures.values():
        picture.data = array.array('B', scene.tobytes())
    return rig.send_frames()


@contextmanager
def watched(**parameters: Any) -> Iterator[tuple[Rig, Watcher]]:
    with run_rig(**{'limits__max_image_age_s': 3600.0, 'history_s': 60.0, 'busy': 'queue',
                    **parameters}) as rig:
        rig.discover()
        watcher = Watcher(rig)
        try:
            yield rig, watcher
        finally:
            watcher.close()


@pytest.fixture(scope='module')
def shared() -> Iterator[tuple[Rig, Watcher]]:
    with watched() as both:
        yield both


@pytest.fixture
def here(shared: tuple[Rig, Watcher], request: pytest.FixtureRequest) -> tuple[Rig, Watcher]:
    """A new scene that is shown, and no results."""
    rig, watcher = shared
    stamp_ns = show(rig, abs(hash(request.node.name)) % 10**6)
    watcher.sees(stamp_ns)
    watcher.sees(stamp_ns, 'side')
    rig.results.clear()
    return rig, watcher


def memory(rig: Rig) -> ImageBuffer:
    """What the node remembers of `front`; kept by a test, it would keep the node on the graph."""
    return rig.node._server.cameras['front'].buffer


def only_result(rig: Rig, count: int = 1) -> Any:
    """The last result, after a while in which no more came than these."""
    rig.until(lambda: len(rig.results) >= count, what=f'{count} results, not {len(rig.results)}')
    before = rig.ticks
    rig.until(lambda: rig.ticks > before + 3)
    assert len(rig.results) == count
    return rig.results[-1]


def test_another_lens_is_another_surface():
    lens = Intrinsics(300.0, 300.0, 159.5, 119.5, 320, 240, (-0.28, 0.09, 0.001, -0.0005, 0.0))
    with watched() as (rig, watcher):
        watcher.sees(show(rig, 1))
        rig.cameras.send_info = lambda camera, stamp_ns, _send=rig.cameras.send_info: _send(
            camera, stamp_ns, lens)
        rig.until(lambda: rig.cameras.send_info('front', rig.cameras.now_ns()) or len(
            rig.node._server.cameras['front'].buffer._infos) > 1, what='the other lens')
        watcher.sees(show(rig, 2))
        assert len(surface(watcher.shown['front']).points) > 100


def test_nothing_is_made_while_nobody_looks():
    """Not an image is decoded, and who looks again does not begin with an old picture."""
    with watched() as (rig, watcher):
        stamp_ns = show(rig, 1)
        watcher.sees(stamp_ns)
        watcher.look_away()
        rig.until(lambda: not rig.node._server._image_markers._sent['front'], what='it is noticed')
        assert watcher.everything() == {}
        show(rig, 2)
        before = rig.ticks
        rig.until(lambda: rig.ticks > before + 3 * PERIOD_S / 0.1)
        assert memory(rig)._images[-1].decoded is None
        watcher.look()
        watcher.sees(show(rig, 3))
        assert memory(rig)._images[-1].decoded is not None


def test_a_camera_that_vanished_goes_grey_and_clicks_on_it_are_refused_until_it_is_back():
    with watched(limits__max_image_age_s=1.0) as (rig, watcher):
        live = watcher.sees(show(rig, 1))
        rig.until(lambda: watcher.shown['front'] is not live, what='the grey picture')
        grey = watcher.shown['front']
        assert control(grey).name == control(live).name
        jpeg = np.frombuffer(surface(grey).texture.data.tobytes(), np.uint8)
        b, g, r = cv2.split(cv2.imdecode(jpeg, cv2.IMREAD_COLOR).astype(int))
        assert max(np.abs(b - g).mean(), np.abs(g - r).mean()) < 3
        for marker in (live, grey):
            rig.results.clear()
            watcher.click(marker=marker)
            result = only_result(rig)
            assert result.status.code == Status.STALE
            assert 'limits.max_image_age_s 1' in result.status.message
        rig.results.clear()
        watcher.sees(show(rig, 2))
        watcher.click()
        assert only_result(rig).status.code == Status.OK


def test_a_click_after_the_node_was_reloaded_is_refused_and_new_pictures_come():
    with watched() as (rig, watcher):
        old = watcher.sees(show(rig, 1))
        for transition in ('deactivate', 'cleanup', 'configure'):
            rig.run_in_executor(getattr(rig.node, f'trigger_{transition}'))
        rig.until(lambda: 'front' not in watcher.shown, what='the end of the pictures')
        rig.until(watcher._feedback.get_subscription_count)
        rig.results.clear()
        watcher.click(marker=old)
        assert only_result(rig).status.code in (Status.BUSY, Status.STALE)
        rig.run_in_executor(rig.node.trigger_activate)
        rig.results.clear()
        watcher.click(marker=old)
        result = only_result(rig)
        assert result.status.code == Status.STALE
        assert 'click again' in result.status.message
        watcher.sees(show(rig, 2))
        rig.results.clear()
        watcher.click()
        assert only_result(rig).status.code == Status.OK


def test_a_click_while_the_node_is_inactive_is_refused_and_nothing_is_shown():
    with watched() as (rig, watcher):
        old = watcher.sees(show(rig, 1))
        rig.run_in_executor(rig.node.trigger_deactivate)
        rig.until(lambda: not watcher.shown, what='the end of the pictures')
        watcher.click(marker=old)
        assert 'not active' in only_result(rig).status.message


def test_without_a_history_there_are_no_pictures():
    with run_rig(history_s=0.0) as rig:
        rig.until(lambda: rig.node._server.state is ServerState.ACTIVE)
        assert rig.run_in_executor(lambda: rig.node._server._image_markers._timer.is_canceled())


def test_a_depth_that_is_lost_now_and_then_does_not_turn_the_picture_grey():
    """An image without its depth cannot be asked, but the one before still can."""
    with watched() as (rig, watcher):
        live = watcher.sees(show(rig, 1))
        memory(rig)._depths.clear()
        shown = rig.node._server._image_markers._sent['front'][-1]
        rig.until(lambda: not rig.node._server._image_markers._is_building)
        before = rig.ticks
        rig.until(lambda: rig.ticks > before + 3 * PERIOD_S / 0.1)
        with pytest.raises(Rejected):
            memory(rig).get_newest_view()
        assert watcher.shown['front'] is live
        assert rig.node._server._image_markers._sent['front'][-1] is shown


def test_each_camera_is_a_textured_surface_on_its_optical_frame(here):
    _, watcher = here
    assert set(watcher.shown) == set(EYES)
    for camera, marker in watcher.shown.items():
        assert marker.header.frame_id == f'{camera}_optical'
        assert (marker.header.stamp.sec, marker.header.stamp.nanosec) == (0, 0)
        button, mesh = control(marker), surface(marker)
        assert button.interaction_mode == InteractiveMarkerControl.BUTTON
        assert button.always_visible
        assert mesh.type == Marker.TRIANGLE_LIST
        assert len(mesh.points) == len(mesh.uv_coordinates) == 12  # two triangles a side
        assert mesh.texture_resource.startswith('embedded://')
        assert mesh.texture.format == 'jpeg'  # RViz ends on a format that it does not know


def test_the_surface_stands_where_the_camera_sees_its_corners(here):
    """Points count from the marker's own pose, on which the title stands."""
    _, watcher = here
    marker = watcher.shown['front']
    at = np.array([marker.pose.position.x, marker.pose.position.y, marker.pose.position.z])
    points = np.array([[p.x, p.y, p.z] for p in surface(marker).points]) + at
    uv = np.array([[c.u, c.v] for c in surface(marker).uv_coordinates])
    pixels = LENS.project(points)
    assert np.allclose(pixels, uv * [LENS.width_px, LENS.height_px] - 0.5, atol=1e-3)
    assert np.allclose(pixels.min(axis=0), -0.5, atol=1e-3)


def test_the_texture_is_the_image(here):
    rig, watcher = here
    jpeg = np.frombuffer(surface(watcher.shown['front']).texture.data.tobytes(), np.uint8)
    seen = cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    sent = np.frombuffer(rig.cameras.pictures['front'].data.tobytes(), np.uint8)
    sent = sent.reshape(seen.shape)
    middle = np.s_[8::16, 8::16]  # of the squares, where a JPEG is right
    assert np.abs(seen[middle].astype(int) - sent[middle]).mean() < 5


def test_a_click_gives_one_result_for_the_pixel_in_the_picture_that_was_shown(here):
    rig, watcher = here
    watcher.click()
    result = only_result(rig)
    assert result.status.code == Status.OK, result.status.message
    assert result.clicked.camera == 'front'
    assert np.allclose([result.clicked.x, result.clicked.y], PIXEL, atol=0.01)
    stamp = result.clicked.header.stamp
    assert f'front@{stamp.sec * 10**9 + stamp.nanosec}' == control(watcher.shown['front']).name


def test_a_click_on_the_picture_before_is_answered_on_that(here):
    """A picture may be replaced while the mouse is on its way."""
    rig, watcher = here
    before = watcher.shown['front']
    watcher.sees(show(rig, 77))
    watcher.click(marker=before)
    result = only_result(rig)
    assert result.status.code == Status.OK, result.status.message
    stamp = result.clicked.header.stamp
    assert f'front@{stamp.sec * 10**9 + stamp.nanosec}' == control(before).name


def test_a_picture_that_looks_the_same_is_not_sent_again_and_the_click_is_on_the_newest(here):
    rig, watcher = here
    sent = len(watcher.updates)
    newest_ns = rig.send_frames()  # the same scene
    newest = rig.node._server._image_markers._sent['front']
    rig.until(lambda: newest[-1].valid_for_ns == newest_ns, what='the comparison')
    watcher.click()
    result = only_result(rig)
    stamp = result.clicked.header.stamp
    assert stamp.sec * 10**9 + stamp.nanosec == newest_ns
    assert result.status.code == Status.OK, result.status.message
    assert len(watcher.updates) == sent


@pytest.mark.parametrize(('changed', 'code', 'said'), [
    ({'mouse_point_valid': False, 'mouse_point': Point()}, Status.BAD_REQUEST, 'nothing is drawn'),
    ({'header': Header(frame_id='map')}, Status.BAD_REQUEST, "'map'"),
    ({'mouse_point': Point(z=2.0)}, Status.BAD_REQUEST, 'off the image'),
    ({'mouse_point': Point(x=5.0, z=PLANE_M)}, Status.BAD_REQUEST, 'outside'),
    ({'mouse_point': Point(x=float('nan'), z=PLANE_M)}, Status.BAD_REQUEST, 'not finite'),
    ({'control_name': 'front@12345'}, Status.STALE, 'no longer shown'),
    ({'control_name': 'side@12345'}, Status.BAD_REQUEST, 'not an image of front'),
    ({'control_name': ''}, Status.BAD_REQUEST, 'not an image of front'),
    ({'control_name': 'front@-1'}, Status.BAD_REQUEST, 'not an image of front'),
    ({'marker_name': 'rear', 'control_name': 'rear@1'}, Status.STALE, "'rear'"),
])
def test_a_click_that_cannot_be_one_gets_one_refusal_in_words(here, changed, code, said):
    rig, watcher = here
    watcher.click(**changed)
    result = only_result(rig)
    assert (result.status.code, said in result.status.message) == (code, True), result.status
    assert not result.has_target


def test_a_drag_over_the_picture_is_no_click(here):
    rig, watcher = here
    watcher.click((60.0, 60.0), event=DOWN)
    watcher.click((90.0, 60.0))
    result = only_result(rig)
    assert result.status.code == Status.BAD_REQUEST
    assert 'dragged over 30 px' in result.status.message


def test_what_else_comes_with_a_click_asks_nothing(here):
    """RViz sends five messages a click."""
    rig, watcher = here
    watcher.click(event=InteractiveMarkerFeedback.POSE_UPDATE)
    watcher.click(event=DOWN)
    watcher.click()
    watcher.click(event=InteractiveMarkerFeedback.POSE_UPDATE)
    watcher.click(event=InteractiveMarkerFeedback.MOUSE_UP)
    assert only_result(rig).status.code == Status.OK


def test_a_hundred_clicks_have_a_hundred_results(here):
    rig, watcher = here
    for number in range(100):
        watcher.click((110.0 + number, 100.0))
        rig.executor.spin_once(timeout_sec=0.005)
    only_result(rig, 100)
    assert len({result.query_id for result in rig.results}) == 100
    codes = {result.status.code for result in rig.results}
    assert Status.OK in codes
    assert codes <= {Status.OK, Status.BUSY}  # at most MAX_QUEUED wait
    assert MAX_QUEUED < 100


def test_pictures_come_at_most_twice_a_second(here):
    rig, watcher = here
    begun, sent = time.monotonic(), len(watcher.updates)
    seed = 1000
    while time.monotonic() < begun + 2.5:
        show(rig, seed := seed + 1)
    seconds = time.monotonic() - begun
    assert seed > 1010  # more scenes than pictures
    assert 2 <= len(watcher.updates) - sent <= seconds / PERIOD_S + 1
