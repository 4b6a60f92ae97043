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
from crosspoint_ros.core.visualization import overlays
from crosspoint_ros.msg import Correspondence, GraspTarget, QueryResult
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.conversions import image_from_rgb
from crosspoint_ros.ros.node.query_queue import Job
from crosspoint_ros.ros.node.result_messages import grasp_pose, header, query_result
from crosspoint_ros.ros.rviz.result_markers import Sight, deletion, sight, target_markers


class TargetOnTf:
    """Broadcasts `base_frame -> target_frame`; `broadcast` is called at 10 Hz.

    The stamp is the node's time now, not that of the click: the target stands still in the base
    frame, and a consumer that looks it up now must find it.
    """

    def __init__(self, node: Node, target_frame: str, ttl_s: float) -> None:
        self._node, self._target_frame, self._ttl_s = node, target_frame, ttl_s
        self._target: GraspTarget | None = None
        self._accepted_s = 0.0
        self._sent_ns = -1
        # tf2_ros's own broadcaster uses this topic and depth; it is not on every machine.
        self._publisher = node.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))

    @property
    def target(self) -> GraspTarget | None:
        """What stands on TF now."""
        return self._target

    def hold(self, target: GraspTarget) -> None:
        """Replace the target, and broadcast it at once."""
        self._target, self._accepted_s, self._sent_ns = target, time.monotonic(), -1
        self.broadcast()

    def clear(self) -> None:
        """Stop broadcasting."""
        self._target = None

    def broadcast(self) -> bool:
        """Send the transform; return True when the target has just expired instead."""
        if self._target is None:
            return False
        if self._ttl_s and time.monotonic() - self._accepted_s > self._ttl_s:
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
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Outputs:
    """The node's publishers; all but `publish_overlays` belong to the executor's thread."""

    def __init__(self, node: Node, config: Config) -> None:
        self._node, self._config = node, config
        self._result = node.create_publisher(QueryResult, '~/result', LATCHED)
        self._correspondence = node.create_publisher(Correspondence, '~/correspondence', LATCHED)
        self._grasp_target = self._target_publisher()
        self._markers = node.create_publisher(MarkerArray, '~/markers', LATCHED)
        self._overlays: dict[str, Publisher] = {
            camera.name: node.create_publisher(Image, f'~/{camera.name}/overlay', 1)
            for camera in config.cameras}
        self.show_rays = True
        self.stands: GraspTarget | None = None  # on all topics; on TF it may be dragged
        self.on_tf = TargetOnTf(node, config.target_frame, config.target_ttl_s)

    def _target_publisher(self) -> Publisher:
        return self._node.create_publisher(PoseStamped, '~/grasp_target', LATCHED)

    def publish(self, job: Job, limits: Limits) -> QueryResult:
        """Publish what a query came to: the target only when there is one, the result always."""
        begun_s = time.monotonic()
        result = query_result(job, self._config.base_frame, limits)
        for correspondence in result.correspondences:
            if correspondence.verdict != Correspondence.REFUSED:
                self._correspondence.publish(correspondence)
        if job.located is not None and result.has_target:
            self.stand(result.target, result.status.message or 'ok', sight(job.located))
        result.stages.append('publish')
        result.stage_s.append(time.monotonic() - begun_s)
        self._result.publish(result)
        return result

    def stand(self, target: GraspTarget, verdict: str, seen: Sight | None) -> None:
        """Make this the target, everywhere; `seen` is None where no rays can be drawn."""
        self._grasp_target.publish(grasp_pose(target))
        self.on_tf.hold(target)
        self.stands = target
        self.draw(target, verdict, seen)

    def draw(self, target: GraspTarget, verdict: str, seen: Sight | None) -> None:
        """Draw the target that stands, with or without its rays as `show_rays` says."""
        self._markers.publish(target_markers(target, verdict, seen if self.show_rays else None))

    def publish_overlays(self, located: LocateResult, limits: Limits) -> None:
        """Draw and publish the views of an answer that somebody looks at."""
        wanted = {camera for camera, publisher in self._overlays.items()
                  if publisher.get_subscription_count()}
        for view, rgb in overlays(located, wanted, limits):
            message = image_from_rgb(rgb, header(view.stamp_ns, view.frame_id))
            self._overlays[view.camera].publish(message)

    def tick(self) -> bool:
        """Broadcast the target; if it has expired, withdraw it everywhere and return True."""
        expired = self.on_tf.broadcast()
        if expired:
            self._withdraw()
        return expired

    def clear(self) -> str:
        """Forget the target, and say what was forgotten."""
        target = self.on_tf.target
        if target is None:
            return 'there was no target'
        self.on_tf.clear()
        self._withdraw()
        return f'forgot target {target.query_id}'

    def _withdraw(self) -> None:
        # A latched message cannot be taken back but with its publisher, and a planner that starts
        # later must not be given a target that was forgotten.
        self.stands = None
        self._node.destroy_publisher(self._grasp_target)
        self._grasp_target = self._target_publisher()
        self._markers.publish(deletion())

    def close(self) -> None:
        """Take everything off the graph."""
        self._markers.publish(deletion())
        self.on_tf.close()
        for publisher in (self._result, self._correspondence, self._grasp_target, self._markers,
                          *self._overlays.values()):
            self._node.destroy_publisher(publisher)
