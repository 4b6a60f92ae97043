"""Live camera images to click on in RViz, each a textured interactive marker."""
from __future__ import annotations

import array
import logging
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from geometry_msgs.msg import Pose, Quaternion, Vector3
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import (
    InteractiveMarker,
    InteractiveMarkerControl,
    InteractiveMarkerFeedback,
    Marker,
    UVCoordinate,
)

from crosspoint_ros.core.datatypes import Array, Code, Rejected, View
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.ros.conversions import point_from_xyz
from crosspoint_ros.ros.node.camera import Camera
from crosspoint_ros.ros.node.query_queue import QueryRequest
from crosspoint_ros.ros.rviz.image_mesh import (
    PLANE_M,
    ImageMesh,
    build_image_mesh,
    is_visually_same,
    make_texture,
)
from crosspoint_ros.ros.rviz.interactive_markers import InteractiveMarkers

log = logging.getLogger(__name__)
PERIOD_S = 0.5
MAX_SENT = 8  # images per camera: a click may arrive after the next one was sent
JPEG_QUALITY = 80
TITLE_SCALE = 0.15  # m; RViz writes the name 15 % of it tall
PREFIX = 'embedded://'
MAX_DRAG_PX = 8.0  # farther between press and release, the view was meant to turn

SubmitQuery = Callable[[QueryRequest], object]
CallInExecutor = Callable[[Callable[[], None]], None]


@dataclass(frozen=True, eq=False)
class ImageMarker:
    """One image of a camera as it was sent to RViz.

    stamp_ns: names it. valid_for_ns: the newest image that is visually the same; a click is
    answered on that one. texture: that of `marker`, before it was greyed out. rejected: why it
    cannot be clicked; None while the camera is alive.
    """

    stamp_ns: int
    valid_for_ns: int
    frame_id: str
    mesh: ImageMesh
    texture: Rgb
    marker: InteractiveMarker
    rejected: Rejected | None = None


class ImageMarkers:
    """Publishes the newest images on `~/pictures` while RViz subscribes, and takes clicks on them.

    It belongs to the executor's thread; a second thread decodes, compares and encodes. RViz never
    frees the texture of a replaced image, so one that is visually the same is not sent again: the
    click goes to the newest image that is the same.
    """

    def __init__(self, node: Node, cameras: dict[str, Camera], max_image_age_s: float,
                 submit: SubmitQuery, call_in_executor: CallInExecutor) -> None:
        """Offer the topics; `call_in_executor` runs a callable in the executor's thread."""
        self._node, self._cameras = node, cameras
        self._submit, self._call_in_executor = submit, call_in_executor
        self._max_age_ns = int(max_image_age_s * 1e9)
        self._markers = InteractiveMarkers(node, '~/pictures', self._on_unknown_marker)
        self._sent: dict[str, deque[ImageMarker]] = {
            name: deque(maxlen=MAX_SENT) for name in cameras}
        self._thread = ThreadPoolExecutor(1, 'crosspoint-pictures')
        self._pressed: dict[tuple[str, str], Array] = {}  # client, camera: the pixel
        self._generation = 0  # images built before the last removal are dropped
        self._is_building = False
        self._timer = node.create_timer(PERIOD_S, self._on_tick,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._timer.cancel()

    def start(self) -> None:
        """Publish images while there is a subscriber."""
        self._timer.reset()

    def stop(self) -> None:
        """Remove the images."""
        self._timer.cancel()
        self._remove_all()

    def close(self) -> None:
        """Take everything off the graph."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._node.destroy_timer(self._timer)
        self._markers.close()

    def _remove_all(self) -> None:
        self._generation += 1
        for camera, sent in self._sent.items():
            if sent:
                self._markers.remove(camera)
                sent.clear()
        self._pressed.clear()
        self._markers.apply()

    # --- showing: executor -> thread -> executor

    def _on_tick(self) -> None:
        if not self._markers.has_subscribers:
            self._remove_all()  # the next subscriber must not start with an old image
        elif not self._is_building:
            self._is_building = True
            shown = {name: sent[-1] if sent else None for name, sent in self._sent.items()}
            generation = self._generation
            self._thread.submit(self._build_newest, shown).add_done_callback(
                lambda built: self._call_in_executor(partial(self._on_built, built, generation)))

    def _build_newest(self, shown: dict[str, ImageMarker | None]) -> dict[str, ImageMarker]:
        """In the thread: return what each camera should show."""
        until_ns = int(self._node.get_clock().now().nanoseconds) - self._max_age_ns
        wanted = {name: build_newest_marker(self._cameras[name], image_marker, until_ns)
                  for name, image_marker in shown.items()}
        return {name: marker for name, marker in wanted.items() if marker is not None}

    def _on_built(self, built: Future[dict[str, ImageMarker]], generation: int) -> None:
        self._is_building = False
        if built.cancelled() or generation != self._generation:
            return
        error = built.exception()
        if error is not None:
            self._node.get_logger().error(''.join(traceback.format_exception(error)),
                                          throttle_duration_sec=10.0)
            return
        for camera, image_marker in built.result().items():
            self._show(camera, image_marker)
        self._markers.apply()

    def _show(self, camera: str, image_marker: ImageMarker) -> None:
        sent = self._sent[camera]
        if sent and sent[-1].marker is image_marker.marker:
            sent[-1] = image_marker
            return
        if image_marker.rejected is not None:
            log.warning('the image of %s is grey: %s', camera, image_marker.rejected.message)
        if sent and sent[-1].stamp_ns == image_marker.stamp_ns:
            sent.pop()
        sent.append(image_marker)
        self._markers.put(image_marker.marker, partial(self._on_feedback, camera))

    # --- clicks

    def _on_feedback(self, camera: str, feedback: InteractiveMarkerFeedback) -> None:
        if feedback.event_type == InteractiveMarkerFeedback.MOUSE_DOWN:
            self._press(camera, feedback)
        if feedback.event_type != InteractiveMarkerFeedback.BUTTON_CLICK:
            return  # RViz sends four other messages with each click
        pressed = self._pressed.pop((feedback.client_id, camera), None)

        def build() -> QueryRequest:
            request = self._build_request(camera, feedback)
            if pressed is not None:
                _reject_drag(pressed, request.pixel)
            return request

        self._submit(QueryRequest.build(camera, build))

    def _press(self, camera: str, feedback: InteractiveMarkerFeedback) -> None:
        """Keep where the button was pressed: RViz reports a click where it is released."""
        self._pressed.pop((feedback.client_id, camera), None)
        with suppress(Rejected):  # its click will be rejected with the reason
            pressed = self._build_request(camera, feedback).pixel
            assert pressed is not None
            self._pressed[feedback.client_id, camera] = pressed

    def _on_unknown_marker(self, feedback: InteractiveMarkerFeedback) -> None:
        """Answer a click on an image that is no longer shown."""
        if feedback.event_type == InteractiveMarkerFeedback.BUTTON_CLICK:
            self._submit(QueryRequest(feedback.marker_name, rejected=Rejected(
                Code.STALE, f'{feedback.client_id} clicked on an image of '
                f'{feedback.marker_name!r} that is no longer shown: click again')))

    def _build_request(self, camera: str, feedback: InteractiveMarkerFeedback) -> QueryRequest:
        image_marker = self._find_clicked(camera, feedback.control_name)
        if image_marker.rejected is not None:
            raise image_marker.rejected
        if not feedback.mouse_point_valid:
            raise Rejected(Code.BAD_REQUEST, 'the mouse was released where nothing is drawn')
        frame_id = feedback.header.frame_id
        if frame_id.lstrip('/') != image_marker.frame_id.lstrip('/'):
            raise Rejected(Code.BAD_REQUEST, f'the click is in the frame {frame_id!r}, not in the '
                           f"image's, {image_marker.frame_id!r}")
        point = feedback.mouse_point
        pixel = image_marker.mesh.pixel_at(np.array([point.x, point.y, point.z]))
        return QueryRequest(camera, image_marker.valid_for_ns, pixel)

    def _find_clicked(self, camera: str, control: str) -> ImageMarker:
        for image_marker in reversed(self._sent[camera]):
            if control == make_control_name(camera, image_marker.stamp_ns):
                return image_marker
        name, _, stamp = control.rpartition('@')
        if name != camera or not stamp.isdecimal():
            raise Rejected(Code.BAD_REQUEST, f'{control!r} is not an image of {camera}')
        raise Rejected(Code.STALE, f'the image {control} is no longer shown: click again')


def _reject_drag(pressed: Array, released: Array | None) -> None:
    drag_px = float(np.linalg.norm(pressed - released)) if released is not None else 0.0
    if drag_px > MAX_DRAG_PX:
        raise Rejected(Code.BAD_REQUEST, f'the mouse was dragged over {drag_px:.0f} px of the '
                       f'image (limit {MAX_DRAG_PX:g} px): not a click')


def build_newest_marker(camera: Camera, shown: ImageMarker | None, until_ns: int
                        ) -> ImageMarker | None:
    """Return what a camera should show: a new image, the one shown, or that one greyed out.

    An image valid for `until_ns` or later stays while there is none newer (its depth may be lost).
    None if there is nothing to show.
    """
    try:
        view = camera.buffer.get_newest_view()
        if shown is not None and shown.stamp_ns == view.stamp_ns and shown.rejected is None:
            return shown
        return _build_image_marker(view, shown)
    except Rejected as why:
        if shown is None or (shown.rejected is None and shown.valid_for_ns >= until_ns):
            return shown
        return _grey_out(camera.config.name, shown, why)


def make_control_name(camera: str, stamp_ns: int) -> str:
    """Return the name of an image, which comes back with a click on it."""
    return f'{camera}@{stamp_ns}'


def _build_image_marker(view: View, shown: ImageMarker | None) -> ImageMarker:
    new = make_texture(view.image)
    same = shown if shown is not None and (
        shown.mesh.intrinsics, shown.frame_id) == (view.intrinsics, view.frame_id) else None
    if same is not None and same.rejected is None and is_visually_same(same.texture, new):
        return replace(same, valid_for_ns=view.stamp_ns)
    mesh = build_image_mesh(view.intrinsics) if same is None else same.mesh
    marker = _build_interactive_marker(view.camera, view.stamp_ns, view.frame_id, mesh, new)
    return ImageMarker(view.stamp_ns, view.stamp_ns, view.frame_id, mesh, new, marker)


def _grey_out(camera: str, shown: ImageMarker, why: Rejected) -> ImageMarker:
    """Return the last image in grey with the reason; drawn once, though its age goes on."""
    if shown.rejected is not None and shown.rejected.code == why.code:
        return replace(shown, rejected=why)
    from crosspoint_ros.core.visualization import draw_refusal
    grey = draw_refusal(shown.texture, why.message)
    marker = _build_interactive_marker(camera, shown.stamp_ns, shown.frame_id, shown.mesh, grey)
    return replace(shown, marker=marker, rejected=why)


def _build_interactive_marker(camera: str, stamp_ns: int, frame_id: str, mesh: ImageMesh,
                              shown: Rgb) -> InteractiveMarker:
    vertices = mesh.vertices_cam_m
    name = make_control_name(camera, stamp_ns)
    # RViz writes the description behind the marker's origin: at the middle of the upper edge.
    title_cam_m = np.array([0.0, vertices[:, 1].min() - 0.01, PLANE_M])
    surface = Marker(
        type=Marker.TRIANGLE_LIST, scale=Vector3(x=1.0, y=1.0, z=1.0),
        color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0), pose=Pose(orientation=Quaternion(w=1.0)),
        points=[point_from_xyz(vertex) for vertex in vertices - title_cam_m],
        uv_coordinates=[UVCoordinate(u=u, v=v) for u, v in mesh.uv.tolist()],
        texture_resource=f'{PREFIX}{name}', texture=_encode_jpeg(shown))
    button = InteractiveMarkerControl(
        name=name, always_visible=True, markers=[surface],
        interaction_mode=InteractiveMarkerControl.BUTTON, orientation=Quaternion(w=1.0))
    # Stamp 0: RViz keeps it on its frame, and reports clicks in that frame.
    return InteractiveMarker(
        header=Header(frame_id=frame_id), name=camera, description=camera, scale=TITLE_SCALE,
        pose=Pose(position=point_from_xyz(title_cam_m), orientation=Quaternion(w=1.0)),
        controls=[button])


def _encode_jpeg(rgb: Rgb) -> CompressedImage:
    _, encoded = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR),
                              (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return CompressedImage(format='jpeg', data=array.array('B', encoded.tobytes()))
