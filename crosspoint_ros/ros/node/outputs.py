"""The node's publishers: results, correspondences, targets, markers, overlays."""
from __future__ import annotations

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.msg import Correspondence, GraspTarget, QueryResult, TargetList, TargetState
from crosspoint_ros.ros.client.results import STATE_NAMES
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.conversions import image_from_rgb
from crosspoint_ros.ros.node.query_messages import build_target_state, make_header
from crosspoint_ros.ros.rviz.target_marker import build_target_markers, delete_all_markers
from crosspoint_ros.ros.target.frames import LIVE_STATES, SentFrames, TargetFrameSender
from crosspoint_ros.ros.target.targets import ActiveTarget, Targets

# A late subscriber gets the last answer.
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                         durability=DurabilityPolicy.TRANSIENT_LOCAL)
FOLLOWED_STATES = (*LIVE_STATES, TargetState.COASTING, TargetState.LOST)


class Outputs:
    """The publishers; all but `publish_overlays` belong to the executor's thread.

    `~/grasp_target` and `~/target_state` are of the target without a name, `~/targets` of all.
    """

    def __init__(self, node: Node, config: Config, targets: Targets,
                 sent: SentFrames) -> None:
        """Create the publishers; those of the targets listen to `targets`."""
        self._node, self._targets, self._base_frame = node, targets, config.base_frame
        self._result = node.create_publisher(QueryResult, '~/result', LATCHED_QOS)
        self._correspondence = node.create_publisher(Correspondence, '~/correspondence',
                                                     LATCHED_QOS)
        self._grasp_target = self._create_target_publisher()
        self._markers = node.create_publisher(MarkerArray, '~/markers', LATCHED_QOS)
        self._overlays: dict[str, Publisher] = {
            camera.name: node.create_publisher(Image, f'~/{camera.name}/overlay', 1)
            for camera in config.cameras}
        self._sent_target: GraspTarget | None = None  # as published
        # By name: the target, what the markers say of it, and whether they show its rays.
        self._drawn: dict[str, tuple[GraspTarget | None, str, bool]] = {}
        self.frames = TargetFrameSender(node, config.target_frame, sent)
        # By name, as published, and what it was built from.
        self._states: dict[str, tuple[tuple[object, ...], TargetState]] = {}
        self._target_state = node.create_publisher(TargetState, '~/target_state', LATCHED_QOS)
        self._target_list = node.create_publisher(TargetList, '~/targets', LATCHED_QOS)
        # The state is the last: who reads it finds the frame on TF.
        targets.listeners += [self._publish_target, self._publish_markers, self.frames.update,
                              self._publish_state]
        self._publish_state(targets[''])

    def _create_target_publisher(self) -> Publisher:
        return self._node.create_publisher(PoseStamped, '~/grasp_target', LATCHED_QOS)

    def publish_result(self, result: QueryResult) -> None:
        """Publish the accepted correspondences, then the result."""
        for correspondence in result.correspondences:
            if correspondence.verdict != Correspondence.REFUSED:
                self._correspondence.publish(correspondence)
        self._result.publish(result)

    def _publish_target(self, state: ActiveTarget) -> None:
        """Publish the new pose of the target without a name, or withdraw the last one's."""
        if state.name:
            return
        sent, previous = state.sent_target, self._sent_target
        self._sent_target = sent
        if sent is None and previous is not None:
            # A latched message is withdrawn with its publisher alone, and a planner that starts
            # later must not be given a cleared target.
            self._node.destroy_publisher(self._grasp_target)
            self._grasp_target = self._create_target_publisher()
        elif sent is not None and sent is not previous and (
                previous is None or state.state != TargetState.COASTING):
            self._grasp_target.publish(PoseStamped(header=sent.header, pose=sent.pose.pose))

    def _publish_markers(self, state: ActiveTarget) -> None:
        """Publish the markers of all targets, if what they say of this one has changed."""
        target = state.active_target
        verdict = '' if state.step is None else state.step.verdict
        if state.state in FOLLOWED_STATES:
            verdict = STATE_NAMES[state.state].lower()
        elif target is not None and state.sent_target is None:
            verdict = f'not sent: accept it first; {verdict}'
        drawn, *was_drawn = self._drawn.get(state.name, (None, '', True))
        self._drawn[state.name] = target, verdict, state.show_rays
        if target is drawn and (target is None or was_drawn == [verdict, state.show_rays]):
            return
        message = delete_all_markers()
        for each in self._targets:
            target, verdict, show_rays = self._drawn.get(each.name, (None, '', True))
            if target is not None and each.step is not None:
                message.markers += build_target_markers(
                    target, verdict, each.step.rays if show_rays else None, each.step.is_sure)
        self._markers.publish(message)

    def _publish_state(self, target: ActiveTarget) -> None:
        """Publish `~/targets`, and `~/target_state`, if the target has changed."""
        is_live = target.followed is not None and target.followed.target is not None
        state = (target.state, target.message, target.last_step, target.valid_until_ns,
                 target.held_until_ns, target.is_valid, target.followed if is_live else None)
        if target.name in self._states and state == self._states[target.name][0]:
            return
        message = build_target_state(target, self._base_frame)
        self._states[target.name] = state, message
        if not target.name:
            self._target_state.publish(message)
        names = sorted(self._states.keys() & {each.name for each in self._targets})
        self._target_list.publish(TargetList(
            header=Header(stamp=self._node.get_clock().now().to_msg(), frame_id=self._base_frame),
            targets=[self._states[name][1] for name in names]))

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
        self.frames.close()
        for publisher in (self._result, self._correspondence, self._grasp_target, self._markers,
                          self._target_state, self._target_list, *self._overlays.values()):
            self._node.destroy_publisher(publisher)
