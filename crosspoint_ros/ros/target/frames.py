"""The targets' frames on TF, and who else sends them."""
from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from tf2_msgs.msg import TFMessage

from crosspoint_ros.core.tf_conflict import LIVE_HISTORY_NS
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import GraspTarget, TargetState
from crosspoint_ros.ros.config import PREGRASP, is_target_frame
from crosspoint_ros.ros.conversions import transform_msg_from_pose
from crosspoint_ros.ros.node.query_messages import make_header
from crosspoint_ros.ros.target.targets import ActiveTarget

# A target's frame is known from before its image: another view's may be that much older.
LEAD_NS = 10**9
# An image may be that much ahead of /clock, which Gazebo sends at 10 Hz.
CLOCK_LAG_NS = 200_000_000
UNKNOWN_NAME = '_NODE_NAMESPACE_UNKNOWN_/_NODE_NAME_UNKNOWN_'  # until it is discovered
UNNAMED = 'a node whose name has not come yet'
LIVE_STATES = (TargetState.TRACKING, TargetState.MOVED)  # of a target that is kept up to date
MAX_SENT = 4000  # of one target 100 s, of 17 dragged ones 1 s


@dataclass(frozen=True)
class SentFrames:
    """What a node has sent, which TF's listeners still have after it is configured again.

    last_target_number: n of the last `<target_frame>_<n>`. alias_stamps_ns: last stamp by alias.
    """

    last_target_number: int = 0
    alias_stamps_ns: Mapping[str, int] = field(default_factory=dict)


class TargetBroadcaster:
    """Broadcasts the targets of one name in `base_frame`; `broadcast` is called at 10 Hz.

    Each target has a frame to itself, `<target_frame>_<n>`, known from a second before the clicked
    image: at the answer's own stamp it is never another target. The alias, `<target_frame>` or
    `<target_frame>_<name>`, is the newest target of the name. TF interpolates between two stamps
    and cannot say that a frame ended; the alias therefore jumps within a nanosecond, right after
    the last stamp of the target before.
    With each frame comes that of its pre-grasp pose, `<frame>_pregrasp`.
    """

    def __init__(self, sender: TargetFrameSender, name: str = '') -> None:
        self._sender, self._alias = sender, get_alias(sender.target_frame, name)
        self._frame, self._newest_number, self._number = '', 0, 0
        self._target: GraspTarget | None = None  # of the frame
        self._alias_target: GraspTarget | None = None  # during a drag, another one
        self._last_stamp_ns = self._frame_stamp_ns = -1
        self._is_live = False  # sent with each image that shows it

    def update(self, state: ActiveTarget) -> None:
        """Broadcast a new target at once."""
        target, alias_target = state.sent_target, state.alias_target
        is_same = target is self._target and alias_target is self._alias_target
        self._is_live = (state.state in LIVE_STATES and state.preview is None
                         and not state.is_paused)
        if is_same or target is None or alias_target is None:
            self._target, self._alias_target = target, alias_target
            return
        assert state.step is not None
        number, now_ns = state.step.target_number, self._sender.now_ns()
        if state.followed is not None and number == self._number:
            self._update_followed(target, alias_target, now_ns)
            return
        self._number, self._frame_stamp_ns = number, -1
        stamp_ns = _limit_stamp(target, now_ns)
        stamps_ns = sorted({max(stamp_ns - LEAD_NS, 1), stamp_ns, now_ns})
        frame = get_target_frame(self._sender.target_frame, number)
        sent = [(frame, at_ns, target) for at_ns in stamps_ns
                if number > self._newest_number or at_ns == now_ns]
        first_ns = self._alias_stamp_ns + 1  # 0: it was never sent
        if alias_target is not target:  # a drag is a movement
            stamps_ns, first_ns = [now_ns], max(first_ns, now_ns)
        # Never ahead of now, where it would go on to be the target before the next.
        sent += [(self._alias, at_ns, alias_target) for at_ns in sorted({
            first_ns or stamps_ns[0], *(max(min(at_ns, now_ns), first_ns) for at_ns in stamps_ns)})]
        self._newest_number = max(self._newest_number, number)
        self._frame, self._target, self._alias_target = frame, target, alias_target
        self._send(sent)

    def _update_followed(self, target: GraspTarget, alias_target: GraspTarget, now_ns: int) -> None:
        """Send where the target was at the stamp of the image that shows it."""
        self._target, self._alias_target = target, alias_target
        stamp_ns = _limit_stamp(target, now_ns)
        alias_ns = min(stamp_ns, now_ns)
        self._send([(self._frame, stamp_ns, target)] * (stamp_ns > self._frame_stamp_ns)
                   + [(self._alias, alias_ns, alias_target)] * (alias_ns > self._alias_stamp_ns))

    def broadcast(self) -> None:
        """Send the transforms, if there is a target."""
        now_ns = self._sender.now_ns()
        # While a simulation is paused, listeners would warn about the repeated stamp.
        if self._target is None or self._alias_target is None or now_ns == self._last_stamp_ns:
            return
        if self._is_live:
            return
        self._last_stamp_ns = now_ns
        self._send([(self._frame, now_ns, self._target)] * (now_ns > self._frame_stamp_ns)
                   + [(self._alias, now_ns, self._alias_target)] * (now_ns > self._alias_stamp_ns))

    def _send(self, sent: list[tuple[str, int, GraspTarget]]) -> None:
        transforms = []
        for frame, at_ns, target in sent:
            header = make_header(at_ns, target.header.frame_id)
            transforms += [TransformStamped(
                header=header, child_frame_id=child, transform=transform_msg_from_pose(pose))
                for child, pose in ((frame, target.pose.pose),
                                    (f'{frame}{PREGRASP}', target.pregrasp))]
            if frame == self._frame:
                self._frame_stamp_ns = max(self._frame_stamp_ns, at_ns)
            if frame == self._alias:
                self._sender.alias_stamps_ns[frame] = max(self._alias_stamp_ns, at_ns)
        self._sender.send(transforms)

    @property
    def _alias_stamp_ns(self) -> int:
        return self._sender.alias_stamps_ns.get(self._alias, -1)

    def reset(self) -> None:
        """Forget the stamps of another time."""
        self._frame_stamp_ns = -1


def _limit_stamp(target: GraspTarget, now_ns: int) -> int:
    """Return the stamp of a target; now, if its camera's clock is far ahead of ours.

    All that came after it would be a jump back in time.
    """
    stamp_ns = stamp_to_ns(target.header.stamp)
    return stamp_ns if stamp_ns <= now_ns + CLOCK_LAG_NS else now_ns


class TargetFrameSender:
    """Sends what the broadcasters of all names broadcast; each comes to be with its first target.

    guard: finds who else sends such frames. alias_stamps_ns: the last stamp of each alias.
    """

    def __init__(self, node: Node, target_frame: str,
                 sent: SentFrames = SentFrames()) -> None:
        """sent: by the sender before this one."""
        self._node, self.target_frame = node, target_frame.lstrip('/')
        now_ns = self.now_ns()  # earlier, if a simulation has begun again meanwhile
        self.alias_stamps_ns = {alias: stamp_ns for alias, stamp_ns in sent.alias_stamps_ns.items()
                                if stamp_ns <= now_ns}
        self.guard = TargetFrameGuard(node, self.target_frame)
        self._broadcasters: dict[str, TargetBroadcaster] = {}
        # The topic and depth of tf2_ros's own broadcaster, which is not on every machine.
        self._publisher = node.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))

    def update(self, target: ActiveTarget) -> None:
        """Broadcast a new target at once."""
        if target.name not in self._broadcasters:
            if target.sent_target is None:
                return
            self._broadcasters[target.name] = TargetBroadcaster(self, target.name)
            self.guard.names |= {target.name} - {''}
        self._broadcasters[target.name].update(target)

    def broadcast(self) -> None:
        """Send the transforms of all targets."""
        for broadcaster in self._broadcasters.values():
            broadcaster.broadcast()

    def send(self, transforms: list[TransformStamped]) -> None:
        """Send transforms, and remember that they are ours."""
        for transform in transforms:
            self.guard.remember(transform)
        if transforms:
            self._publisher.publish(TFMessage(transforms=transforms))

    def now_ns(self) -> int:
        """Return the time of the node's clock."""
        return int(self._node.get_clock().now().nanoseconds)

    def reset(self) -> None:
        """Forget the stamps of another time."""
        self.alias_stamps_ns.clear()
        for broadcaster in self._broadcasters.values():
            broadcaster.reset()

    def close(self) -> None:
        """Leave the topic."""
        self._node.destroy_publisher(self._publisher)


class TargetFrameGuard:
    """Finds who else sends the target's frames: a robot's TF must not be overwritten.

    conflict: what was found, '' for nothing; of a sender that has been silent for as long as TF
    remembers it, nothing.
    """

    def __init__(self, node: Node, target_frame: str) -> None:
        self._node, self._target_frame = node, target_frame
        self.names: set[str] = set()  # of the targets
        self._sent: deque[tuple[object, ...]] = deque(maxlen=MAX_SENT)
        self._taken, self._until_s = ('', '', ''), 0.0  # the frame, its parent, and the topic
        self._senders = UNNAMED
        self.on_conflict: Callable[[str], None] = lambda conflict: None

    @property
    def conflict(self) -> str:
        """Why no target may be sent; '' if one may."""
        if not self._is_taken:
            return ''
        child, parent, topic = self._taken
        return (f'frame {child!r} is also sent by another node on {topic}, in {parent!r} '
                f'({self._describe_senders(topic)}): stop that, or give target_frame, now '
                f'{self._target_frame!r}, a unique name. Queries are '
                + ('refused until this node is cleaned up and configured'
                   if self._until_s == math.inf else
                   f'taken again {LIVE_HISTORY_NS * 1e-9:g} s after the last of them'))

    @property
    def _is_taken(self) -> bool:
        return time.monotonic() < self._until_s

    def remember(self, stamped: TransformStamped) -> None:
        """Remember what this node sends."""
        self._sent.append(_identify(stamped))

    def accept(self, stamped: TransformStamped, static: bool) -> bool:
        """Return whether a transform that was received is not one of the target's frames."""
        child = stamped.child_frame_id  # /tf comes a thousand times a second
        if self._target_frame not in child or not is_target_frame(child, self._target_frame,
                                                                  self.names):
            return True
        if not static and _identify(stamped) in self._sent:
            return False
        was_taken, was_static = self._is_taken, self._until_s == math.inf
        if not was_static:
            self._until_s = math.inf if static else time.monotonic() + LIVE_HISTORY_NS * 1e-9
        if not was_taken or (static and not was_static):
            self._taken = child, stamped.header.frame_id, '/tf_static' if static else '/tf'
            self._senders = UNNAMED
            self.on_conflict(self.conflict)
        return False

    def _describe_senders(self, topic: str) -> str:
        """Say who sends there: their names may come later than their transforms."""
        if UNNAMED not in self._senders:
            return self._senders
        names = {f'{i.node_namespace.rstrip("/")}/{i.node_name}'
                 for i in self._node.get_publishers_info_by_topic(topic)}
        named = sorted(names - {self._node.get_fully_qualified_name(), UNKNOWN_NAME})
        twins = [name for name in named if self._node.count_publishers(f'{name}/target_state')]
        others = named[:8] + [UNNAMED] * (UNKNOWN_NAME in names or not named)
        self._senders = (f'by the crosspoint node {", ".join(twins)}' if twins else
                         f'who sends there: {", ".join(others)}')
        return self._senders


def _identify(stamped: TransformStamped) -> tuple[object, ...]:
    at = stamped.transform.translation  # under /clock, two nodes send the same stamps
    return stamped.child_frame_id, stamp_to_ns(stamped.header.stamp), at.x, at.y, at.z


def get_target_frame(target_frame: str, number: int) -> str:
    """Return the frame of one answer's target, of any name."""
    return f'{target_frame}_{number}'


def get_alias(target_frame: str, name: str) -> str:
    """Return the frame of the newest target of a name."""
    return f'{target_frame}_{name}' if name else target_frame
