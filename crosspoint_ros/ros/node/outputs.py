"""Everything the node says: results, correspondences, target, TF, markers, overlays."""
from __future__ import annotations

import time

from geometry_msgs.msg import PoseStamped, TransformStamped
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.core.visualization import draw_result
from crosspoint_ros.msg import Correspondence, GraspTarget, QueryResult
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.conversions import image_from_rgb
from crosspoint_ros.ros.node.query_queue import QueryTask
from crosspoint_ros.ros.node.result_messages import build_query_result, header, to_pose_stamped
from crosspoint_ros.ros.rviz.result_markers import (
    TargetRays,
    build_target_markers,
    delete_all_markers,
    rays_from_result,
)


class TargetBroadcaster:
    """Broadcasts `base_frame -> target_frame`; `broadcast` is called at 10 Hz.

    The stamp is the node's time now, not that of the click: the target stands still in the base
    frame, and a consumer that looks it up now must find it.
    """

    def __init__(self, node: Node, target_frame: str, ttl_s: float) -> None:
        self._node, self._target_frame, self._ttl_s = node, target_frame, ttl_s
        self._target: GraspTarget | None = None
        self._set_s = 0.0
        self._sent_ns = -1
        # tf2_ros's own broadcaster uses this topic and depth; it is not on every machine.
        self._publisher = node.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))

    @property
    def target(self) -> GraspTarget | None:
        """What stands on TF now."""
        return self._target

    def set(self, target: GraspTarget) -> None:
        """Replace the target, and broadcast it at once."""
        self._target, self._set_s, self._sent_ns = target, time.monotonic(), -1
        self.broadcast()

    def clear(self) -> None:
        """Stop broadcasting."""
        self._target = None

    def broadcast(self) -> bool:
        """Send the transform; return True when the target has just expired instead."""
        if self._target is None:
            return False
        if self._ttl_s and time.monotonic() - self._set_s > self._ttl_s:
            self.clear()
            return True
        now = self._node.get_clock().now()
        if now.nanoseconds == self._sent_ns:
            return False  # a simulation is paused: listeners complain of the same stamp again
        self._sent_ns = now.nanoseconds
        pose = self._target.pose.pose
        transform = TransformStamped(child_frame_id=self._target_frame)
        transform.header.stamp = now.to_msg()
        transform.header.frame_id = self._target.header.frame_id
        transform.transform.translation.x = pose.position.x
        transform.transform.translation.y = pose.position.y
        transform.transform.translation.z = pose.position.z
        transform.transform.rotation = pose.orientation
        self._publisher.publish(TFMessage(transforms=[transform]))
        return False

    def close(self) -> None:
        """Leave the topic."""
        self._node.destroy_publisher(self._publisher)


# A late subscriber gets the last answer.
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Outputs:
    """The node's publishers; all but `publish_overlays` belong to the executor's thread."""

    def __init__(self, node: Node, config: Config) -> None:
        self._node, self._config = node, config
        self._result = node.create_publisher(QueryResult, '~/result', LATCHED_QOS)
        self._correspondence = node.create_publisher(Correspondence, '~/correspondence', LATCHED_QOS)
        self._grasp_target = self._create_target_publisher()
        self._markers = node.create_publisher(MarkerArray, '~/markers', LATCHED_QOS)
        self._overlays: dict[str, Publisher] = {
            camera.name: node.create_publisher(Image, f'~/{camera.name}/overlay', 1)
            for camera in config.cameras}
        self.show_rays = True
        self.active_target: GraspTarget | None = None  # on all topics; on TF it may be dragged
        self.broadcaster = TargetBroadcaster(node, config.target_frame, config.target_ttl_s)

    def _create_target_publisher(self) -> Publisher:
        return self._node.create_publisher(PoseStamped, '~/grasp_target', LATCHED_QOS)

    def publish_result(self, task: QueryTask, limits: Limits) -> QueryResult:
        """Publish what a query came to: the target only when there is one, the result always."""
        begun_s = time.monotonic()
        result = build_query_result(task, self._config.base_frame, limits)
        for correspondence in result.correspondences:
            if correspondence.verdict != Correspondence.REFUSED:
                self._correspondence.publish(correspondence)
        if task.locate_result is not None and result.has_target:
            self.set_target(result.target, result.status.message or 'ok', rays_from_result(task.locate_result))
        result.stages.append('publish')
        result.stage_s.append(time.monotonic() - begun_s)
        self._result.publish(result)
        return result

    def set_target(self, target: GraspTarget, verdict: str, rays: TargetRays | None) -> None:
        """Make this the target, everywhere; `seen` is None where no rays can be drawn."""
        self._grasp_target.publish(to_pose_stamped(target))
        self.broadcaster.set(target)
        self.active_target = target
        self.publish_markers(target, verdict, rays)

    def publish_markers(self, target: GraspTarget, verdict: str, rays: TargetRays | None) -> None:
        """Draw the target that stands, with or without its rays as `show_rays` says."""
        self._markers.publish(build_target_markers(target, verdict, rays if self.show_rays else None))

    def publish_overlays(self, locate_result: LocateResult, limits: Limits) -> None:
        """Draw and publish the views of an answer that somebody looks at."""
        wanted = {camera for camera, publisher in self._overlays.items()
                  if publisher.get_subscription_count()}
        for view, rgb in draw_result(locate_result, wanted, limits):
            message = image_from_rgb(rgb, header(view.stamp_ns, view.frame_id))
            self._overlays[view.camera].publish(message)

    def tick(self) -> bool:
        """Broadcast the target; if it has expired, withdraw it everywhere and return True."""
        expired = self.broadcaster.broadcast()
        if expired:
            self._clear_topics()
        return expired

    def clear(self) -> str:
        """Forget the target, and say what was forgotten."""
        target = self.broadcaster.target
        if target is None:
            return 'there was no target'
        self.broadcaster.clear()
        self._clear_topics()
        return f'forgot target {target.query_id}'

    def _clear_topics(self) -> None:
        # A latched message cannot be taken back but with its publisher, and a planner that starts
        # later must not be given a target that was forgotten.
        self.active_target = None
        self._node.destroy_publisher(self._grasp_target)
        self._grasp_target = self._create_target_publisher()
        self._markers.publish(delete_all_markers())

    def close(self) -> None:
        """Take everything off the graph."""
        self._markers.publish(delete_all_markers())
        self.broadcaster.close()
        for publisher in (self._result, self._correspondence, self._grasp_target, self._markers,
                          *self._overlays.values()):
            self._node.destroy_publisher(publisher)
