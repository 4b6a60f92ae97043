"""The node's publishers: results, correspondences, target, TF, markers, overlays."""
from __future__ import annotations

from geometry_msgs.msg import PoseStamped, TransformStamped
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.msg import Correspondence, GraspTarget, QueryResult
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.conversions import image_from_rgb, transform_from_pose, transform_to_msg
from crosspoint_ros.ros.node.history import ActiveTarget
from crosspoint_ros.ros.node.query_messages import make_header
from crosspoint_ros.ros.rviz.target_marker import build_target_markers, delete_all_markers

# A late subscriber gets the last answer.
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                         durability=DurabilityPolicy.TRANSIENT_LOCAL)


class TargetBroadcaster:
    """Broadcasts `base_frame -> target_frame`; `broadcast` is called at 10 Hz.

    The stamp is the node's time now, not that of the click: the target does not move in the base
    frame, and a consumer looks it up at the present time.
    """

    def __init__(self, node: Node, target_frame: str) -> None:
        self._node, self._target_frame = node, target_frame
        self._target: GraspTarget | None = None
        self._last_stamp_ns = -1
        # The topic and depth of tf2_ros's own broadcaster, which is not on every machine.
        self._publisher = node.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))

    def update(self, state: ActiveTarget) -> None:
        """Broadcast a new target at once."""
        target = state.preview or state.active_target
        if target is not self._target:
            self._target, self._last_stamp_ns = target, -1
            self.broadcast()

    def broadcast(self) -> None:
        """Send the transform, if there is a target."""
        now = self._node.get_clock().now()
        # While a simulation is paused, listeners would warn about the repeated stamp.
        if self._target is None or now.nanoseconds == self._last_stamp_ns:
            return
        self._last_stamp_ns = now.nanoseconds
        transform = TransformStamped(
            child_frame_id=self._target_frame,
            transform=transform_to_msg(transform_from_pose(self._target.pose.pose)))
        transform.header.stamp = now.to_msg()
        transform.header.frame_id = self._target.header.frame_id
        self._publisher.publish(TFMessage(transforms=[transform]))

    def close(self) -> None:
        """Leave the topic."""
        self._node.destroy_publisher(self._publisher)


class Outputs:
    """The publishers; all but `publish_overlays` belong to the executor's thread."""

    def __init__(self, node: Node, config: Config, target: ActiveTarget) -> None:
        """Create the publishers; those of the target listen to `target`."""
        self._node = node
        self._result = node.create_publisher(QueryResult, '~/result', LATCHED_QOS)
        self._correspondence = node.create_publisher(Correspondence, '~/correspondence',
                                                     LATCHED_QOS)
        self._grasp_target = self._create_target_publisher()
        self._markers = node.create_publisher(MarkerArray, '~/markers', LATCHED_QOS)
        self._overlays: dict[str, Publisher] = {
            camera.name: node.create_publisher(Image, f'~/{camera.name}/overlay', 1)
            for camera in config.cameras}
        self._target: GraspTarget | None = None  # as published
        self._shows_rays = True
        self.broadcaster = TargetBroadcaster(node, config.target_frame)
        target.listeners += [self._publish_target, self.broadcaster.update]

    def _create_target_publisher(self) -> Publisher:
        return self._node.create_publisher(PoseStamped, '~/grasp_target', LATCHED_QOS)

    def publish_result(self, result: QueryResult) -> None:
        """Publish the accepted correspondences, then the result."""
        for correspondence in result.correspondences:
            if correspondence.verdict != Correspondence.REFUSED:
                self._correspondence.publish(correspondence)
        self._result.publish(result)

    def _publish_target(self, state: ActiveTarget) -> None:
        """Publish a new target's pose and markers, or withdraw the last one's."""
        target, previous = state.active_target, self._target
        has_new_target, has_new_rays = target is not previous, state.show_rays != self._shows_rays
        self._target, self._shows_rays = target, state.show_rays
        if target is None:
            if previous is not None:
                # A latched message is withdrawn with its publisher alone, and a planner that
                # starts later must not be given a cleared target.
                self._node.destroy_publisher(self._grasp_target)
                self._grasp_target = self._create_target_publisher()
                self._markers.publish(delete_all_markers())
            return
        assert state.step is not None
        if has_new_target:
            self._grasp_target.publish(PoseStamped(header=target.header, pose=target.pose.pose))
        if has_new_target or has_new_rays:
            self._markers.publish(build_target_markers(
                target, state.step.verdict, state.step.rays if state.show_rays else None))

    def publish_overlays(self, result: LocateResult, limits: Limits) -> None:
        """Draw and publish the views of an answer whose overlays have a subscriber."""
        cameras = {camera for camera, publisher in self._overlays.items()
                   if publisher.get_subscription_count()}
        if not cameras:
            return
        from crosspoint_ros.core.visualization import draw_result
        for view, rgb in draw_result(result, cameras, limits):
            message = image_from_rgb(rgb, make_header(view.stamp_ns, view.frame_id))
            self._overlays[view.camera].publish(message)

    def close(self) -> None:
        """Take everything off the graph."""
        self._markers.publish(delete_all_markers())
        self.broadcaster.close()
        for publisher in (self._result, self._correspondence, self._grasp_target, self._markers,
                          *self._overlays.values()):
            self._node.destroy_publisher(publisher)
