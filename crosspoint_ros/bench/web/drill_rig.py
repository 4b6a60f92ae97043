"""What the drill of the page works with: cameras that fail, what the robot says, a real browser."""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from crosspoint_ros.action import Correspond
from crosspoint_ros.bench.node.cli import PlaneMatcher
from crosspoint_ros.bench.node.synthetic_cameras import SyntheticCameras
from crosspoint_ros.core.datatypes import Match, Query
from crosspoint_ros.msg import History, QueryResult, TargetList, TargetState
from crosspoint_ros.ros.client.session import RosSession
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.srv import Accept

NODE, ALIAS = '/crosspoint', 'crosspoint_target'
SLOW_ROW, FAIL_ROW, UNSURE_ROW = 60, 120, 180  # px: rows above decide what the matcher does
SLOW_S = 2.0
REPLY_TIMEOUT_S = 10.0


class RowMatcher(PlaneMatcher):
    """Is slow, fails or is unsure, depending on the row that was clicked."""

    def match(self, query: Query) -> Match:
        """Return the plane's point."""
        row = query.pixel[1]
        if row < SLOW_ROW:
            time.sleep(SLOW_S)
        elif row < FAIL_ROW:
            raise RuntimeError('the drill has this matcher fail')
        match = super().match(query)
        confidence = 0.6 if FAIL_ROW <= row < UNSURE_ROW else match.confidence
        return Match(match.pixel, confidence=confidence, basis=match.basis)


class DrillCameras(SyntheticCameras):
    """Cameras that fail as the drill's thread sets it; their poses are on /tf, not static."""

    def __init__(self, **options: Any) -> None:
        self.stopped: frozenset[str] = frozenset()
        self.messages: dict[str, Any] = {}  # by camera: image, depth and info instead of the usual
        self.stamp_delay_s = 0.0  # how old the images are when they are published
        self.tf_delay_s: float | None = 0.0  # None: no TF
        self._poses_due: deque[tuple[float, TFMessage]] = deque()
        super().__init__(**options)

    def _create_tf_publisher(self) -> Any:
        return self.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))

    def _publish(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        stamp = time_from_ns(now_ns - int(1e9 * self.stamp_delay_s))
        if self.tf_delay_s is not None:
            self._poses_due.append((time.monotonic() + self.tf_delay_s, self._make_poses(stamp)))
        while self._poses_due and self._poses_due[0][0] <= time.monotonic():
            self._tf.publish(self._poses_due.popleft()[1])
        for name, publishers in self._camera_publishers.items():
            messages = self.messages.get(name, self._camera_messages)
            for publisher, message in zip(publishers, messages, strict=True):
                if name not in self.stopped:
                    message.header.stamp, message.header.frame_id = stamp, f'{name}_optical'
                    publisher.publish(message)


class RobotObserver:
    """What the node and TF say, and other clients of the node; its own thread spins."""

    def __init__(self, session: RosSession, cameras: DrillCameras) -> None:
        self.cameras, self._session = cameras, session
        node = session.create_node('drill')
        self.forget()
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for kind, name in ((TargetState, 'target_state'), (TargetList, 'targets'),
                           (History, 'history'), (QueryResult, 'result')):
            node.create_subscription(kind, f'{NODE}/{name}', self._on_message, latched)
        node.create_subscription(TFMessage, '/tf', self._on_tf, QoSProfile(depth=100))
        self._services: dict[str, Any] = {
            name: node.create_client(kind, f'{NODE}/{name}') for name, kind in {
                'clear': Trigger, 'undo': Trigger, 'redo': Trigger, 'hold': Trigger,
                'resume': Trigger, 'accept': Accept, 'change_state': ChangeState}.items()}
        self._action: Any = ActionClient(node, Correspond, f'{NODE}/correspond')
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._is_closing.is_set():
            self._session.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        """End the thread."""
        self._is_closing.set()
        self._action.destroy()
        self._thread.join()

    def forget(self) -> None:
        """Forget the messages of a node that has ended."""
        self.state: TargetState | None = None  # of the target without a name
        self.named: dict[str, TargetState] = {}  # of the others
        self.history: History | None = None
        self.results: dict[str, QueryResult] = {}
        self.sent_s, self.sent_at_m = -1e9, (0.0, 0.0, 0.0)  # of the target on /tf (monotonic)

    def _on_message(self, message: Any) -> None:
        if isinstance(message, TargetState):
            self.state = message
        elif isinstance(message, TargetList):
            self.named = {state.name: state for state in message.targets if state.name}
        elif isinstance(message, History):
            self.history = message
            self.results.update({e.result.query_id: e.result for e in message.entries})
        else:
            self.results[message.query_id] = message

    def _on_tf(self, message: TFMessage) -> None:
        for each in message.transforms:
            if each.child_frame_id == ALIAS:
                at = each.transform.translation
                self.sent_s, self.sent_at_m = time.monotonic(), (at.x, at.y, at.z)

    # As another client of the node

    def call(self, service: str, request: Any = None) -> Any:
        """Call a service and return its reply. Raises TimeoutError."""
        client = self._services[service]
        return self._wait(lambda: client.service_is_ready() and client.call_async(
            request or Trigger.Request()), f'replied to {service}')

    def change_state(self, transition: str) -> None:
        """Activate or deactivate the node."""
        number = getattr(Transition, f'TRANSITION_{transition.upper()}')
        self.call('change_state', ChangeState.Request(transition=Transition(id=number)))

    def click(self, x: float, y: float, camera: str = 'front') -> QueryResult:
        """Click on the newest image and return the result. Raises TimeoutError."""
        handle = self._wait(lambda: self._action.server_is_ready() and self._action.send_goal_async(
            Correspond.Goal(camera=camera, x=x, y=y)), 'taken a goal')
        result: QueryResult = self._wait(handle.get_result_async, 'answered').result.result
        return result

    def _wait(self, send: Callable[[], Any], what: str) -> Any:
        end_s, future = time.monotonic() + REPLY_TIMEOUT_S, None
        while time.monotonic() < end_s:
            future = future or send()
            if future and future.done():
                return future.result()
            time.sleep(0.01)
        raise TimeoutError(f'{NODE} has not {what} within {REPLY_TIMEOUT_S:g} s')


# What the page says, in one look.
READ = """() => {
  const text = id => document.getElementById(id).innerText;
  const button = id => {
    const element = document.getElementById(id);
    return { text: element.innerText,
      enabled: !element.disabled && !element.closest('[inert]') };
  };
  const views = [...document.querySelectorAll('.view')].map(view => ({
    camera: view.dataset.camera, stamp: view.dataset.stamp ?? '0',
    badge: view.querySelector('.badge').textContent,
    isOld: view.querySelector('.badge').classList.contains('old'),
    isFrozen: view.classList.contains('frozen'), isPrevious: view.classList.contains('previous'),
    message: view.querySelector('.message').textContent,
    offersMatched: !view.querySelector('.toggle').hidden,
    marks: [...view.querySelectorAll('.mark')].map(mark => ({
      kinds: [...mark.classList], ...mark.dataset })) }));
  const target = document.getElementById('target');
  return {
    status: text('status'), statusKind: document.getElementById('status').className,
    target: { state: target.dataset.state, text: text('target-state'), card: target.innerText,
      place: target.querySelector('.place')?.innerText ?? '',
      verdict: target.querySelector('.verdict')?.className ?? '',
      isDoubtful: target.classList.contains('doubtful') },
    named: [...document.querySelectorAll('#targets li')].map(row => ({
      ...row.dataset, text: row.innerText })).filter(({ name }) => name),
    note: text('note'), query: document.getElementById('result').dataset.query ?? '',
    accept: button('accept'), clear: button('clear'), undo: button('undo'), redo: button('redo'),
    rows: [...document.querySelectorAll('#history li')].map(row => row.dataset.query ?? ''),
    views, all: document.body.innerText + [...document.querySelectorAll('[title]')].map(
      element => element.title).join(' ') };
}"""
OFFSET_CLOCK = """(() => {
  const { now } = Date, Real = Date;
  Date.now = () => now() + %d;
  window.Date = class extends Real {
    constructor(...given) { super(...(given.length ? given : [Real.now()])); }
  };
})()"""
LINKS = {'free': (0, -1), 'slow': (200, 60_000)}  # latency in ms, throughput in bytes/s


class PageTab:
    """The page in one tab of a Chromium."""

    def __init__(self, browser: Any, address: str, clock_offset_ms: int = 0) -> None:
        self._context = browser.new_context(viewport={'width': 1280, 'height': 720})
        self.tab = self._context.new_page()
        self.script_errors: list[str] = []
        self.tab.on('pageerror', lambda error: self.script_errors.append(str(error)))
        if clock_offset_ms:
            self.tab.add_init_script(OFFSET_CLOCK % clock_offset_ms)
        self._devtools = self._context.new_cdp_session(self.tab)
        self._devtools.send('Network.enable')
        self.tab.goto(address)

    def read(self) -> dict[str, Any]:
        """Return what the page says now."""
        content: dict[str, Any] = self.tab.evaluate(READ)
        return content

    def set_link(self, kind: str) -> None:
        """Set the network: free, slow or offline."""
        latency_ms, bytes_per_s = LINKS.get(kind, (0, 0))
        self._devtools.send('Network.emulateNetworkConditions', {
            'offline': kind == 'offline', 'latency': latency_ms,
            'downloadThroughput': bytes_per_s, 'uploadThroughput': bytes_per_s})

    def click(self, x: float, y: float, camera: str = 'front') -> None:
        """Click a pixel of a camera's image of 640x480 px, which becomes the large one."""
        self.tab.mouse.click(*self._to_screen(x, y, camera))

    def name_next(self, name: str) -> None:
        """Fill in the name of the target of the next click."""
        self.tab.fill('#target-name', name)

    def drag(self, start: tuple[float, float], end: tuple[float, float], camera: str) -> None:
        """Drag from a pixel of a camera's image to another."""
        self.tab.mouse.move(*self._to_screen(*start, camera))
        self.tab.mouse.down()
        self.tab.mouse.move(*self._to_screen(*end, camera), steps=4)
        self.tab.mouse.up()

    def _to_screen(self, x: float, y: float, camera: str) -> tuple[float, float]:
        view = self.tab.locator(f'.view[data-camera={camera}]')
        if 'focused' not in (view.get_attribute('class') or ''):
            view.locator('svg').click()
        box = view.locator('svg').bounding_box()
        return (box['x'] + (x + 0.5) / 640 * box['width'],
                box['y'] + (y + 0.5) / 480 * box['height'])

    def close(self) -> None:
        """Close the tab."""
        self._context.close()
