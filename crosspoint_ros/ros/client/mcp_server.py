"""`crosspoint mcp`: tools for a language-model agent, by the Model Context Protocol.

An agent looks and clicks; whether a target reaches the robot is up to a person, who accepts it.
"""
from __future__ import annotations

import argparse
import sys
import threading
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.msg import QueryResult, TargetState
from crosspoint_ros.ros.client.client import NODE_NAME, Client
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.client.results import format_result, format_state

SMALL_PX, JPEG_QUALITY = 640, 80  # of a picture for the agent, its long side
# Of a picture, and of what is around the click, since the agent looked, mean grey levels; noise is
# below 3.
MAX_CHANGE, PATCH_PX = 8.0, 48
STATE_S = 2.0  # for the latched state to arrive
INSTRUCTIONS = (
    'A click on a point of one camera becomes the same point in the other cameras and a 3D grasp '
    'target. Look first; coordinates are pixels of the picture that `look` returned, x right, y '
    'down. A refusal is an answer: read why, and click elsewhere or ask a person. A person accepts '
    'the target before the robot gets it.')


class AgentTools:
    """What an agent may do with a node; one call at a time, each may block for seconds."""

    def __init__(self, client: Client, publish_at_once: bool = False) -> None:
        """publish_at_once: allow clicks on a node that needs no person to accept."""
        self._client, self._publish_at_once = client, publish_at_once
        self._lock = threading.Lock()
        self._looked: dict[str, npt.NDArray[np.uint8]] = {}  # the last picture, by camera
        self._result: QueryResult | None = None
        self._states: dict[str, TargetState] = {}  # by name
        client.subscribe_targets(self._take_states)

    def _take_states(self, states: dict[str, TargetState]) -> None:
        self._states = states

    def cameras(self) -> list[dict[str, Any]]:
        """List the cameras."""
        with self._lock:
            return [{'name': camera.name, 'has_depth': bool(camera.depth_topic)}
                    for camera in self._client.query_info().cameras]

    def look(self, camera: str) -> tuple[bytes, int, int]:
        """Return the newest picture of a camera as JPEG, its width and its height."""
        with self._lock:
            picture, _, _ = self._take_picture(self._find_camera(camera))
            self._looked[camera] = picture
        jpeg = cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return jpeg[1].tobytes(), picture.shape[1], picture.shape[0]

    def click(self, camera: str, x: float, y: float, name: str = '') -> str:
        """Click on a pixel of the picture that `look` returned; return the answer or refusal.

        Raises ValueError if the agent has not looked, or the picture has changed since.
        """
        with self._lock:
            found = self._find_camera(camera)
            self._check_gate()
            if camera not in self._looked:
                raise ValueError(f'look at {camera} first: a click is a pixel of that picture')
            looked = self._looked[camera]
            height, width = looked.shape[:2]
            if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
                raise ValueError(f'({x:g}, {y:g}) is outside of the {width}x{height} px picture')
            picture, scale, stamp_ns = self._take_picture(found)
            if picture.shape != looked.shape:
                raise ValueError(f'the images of {camera} have another size now: look again')
            _check_unchanged(camera, looked, picture, x, y)
            pixel = ((x + 0.5) / scale - 0.5, (y + 0.5) / scale - 0.5)  # pixel centres
            return self._report(self._client.click(camera, pixel, stamp_ns=stamp_ns,
                                                    target_name=name))

    def point_at(self, camera: str, instruction: str, name: str = '') -> str:
        """Find what an instruction names, such as "the mug's handle", and click on it."""
        with self._lock:
            self._find_camera(camera)
            self._check_gate()
            return self._report(self._client.instruct(camera, instruction,
                                                       target_name=name))

    def explain(self) -> str:
        """Return the answer or refusal of the agent's last click in each camera."""
        with self._lock:
            return 'no click so far' if self._result is None else format_result(self._result)

    def targets(self) -> str:
        """Return the state of each target, and whether the robot may go on with it."""
        with self._lock:
            self._client.spin_until(lambda: bool(self._states), STATE_S)
            self._client.spin_for(0.05)  # what has arrived since the last call
            return '\n'.join(map(format_state, self._states.values())) or 'no target so far'

    def clear(self) -> str:
        """Clear all targets, so that the robot stops; does not wait for a click that runs."""
        with Client(self._client.name) as client:
            return client.clear()

    def _report(self, result: QueryResult) -> str:
        self._result = result
        text = format_result(result)
        if result.has_target and not self._publish_at_once:
            text += '\n  a person has to accept it before the robot gets it'
        return text

    def _find_camera(self, name: str) -> NodeCamera:
        info = self._client.query_info()
        found = info.camera(name)
        if found is None:
            raise ValueError(f'no camera {name!r}: '
                             f'{", ".join(camera.name for camera in info.cameras)}')
        return found

    def _check_gate(self) -> None:
        mode = self._client.query_info().publish_target
        if mode != 'on_accept' and not self._publish_at_once:
            raise ValueError(f'the node publishes targets without a person (publish_target: {mode}'
                             '): set it to on_accept, or start crosspoint mcp --publish-at-once')

    def _take_picture(self, camera: NodeCamera) -> tuple[Rgb, float, int]:
        """Return the newest image, made small, its scale and its stamp in ns."""
        image, stamp_ns = self._client.receive_image(camera)
        scale = min(1.0, SMALL_PX / max(image.shape[:2]))
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        small: Rgb = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        return small, scale, stamp_ns


def _check_unchanged(camera: str, looked: Rgb, now: Rgb, x: float, y: float) -> None:
    """Raise ValueError if the picture, or what is around the pixel, differs from what was seen."""
    column, row = (max(round(at) - PATCH_PX // 2, 0) for at in (x, y))
    around = slice(row, row + PATCH_PX), slice(column, column + PATCH_PX)
    for where, part in (('', (slice(None),)), (f' around ({x:g}, {y:g})', around)):
        change = float(np.abs(now[part].astype(np.int16) - looked[part]).mean())
        if change > MAX_CHANGE:
            raise ValueError(f'{camera} shows something else{where} than when you looked '
                             f'({change:.1f} grey levels on average, at most {MAX_CHANGE:g}): '
                             'look again')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--node', default=NODE_NAME, help=f'(default: {NODE_NAME})')
    parser.add_argument('--publish-at-once', action='store_true',
                        help='allow clicks on a node that publishes targets before a person '
                        'accepts them (publish_target is not on_accept)')


def main(args: argparse.Namespace) -> int:
    """Serve an agent on standard input and output until it leaves."""
    try:
        import mcp.server  # noqa: F401
    except ModuleNotFoundError:
        print('crosspoint mcp: the Model Context Protocol is not installed: '
              'pip install "crosspoint_ros[mcp]"', file=sys.stderr)
        return 1
    with Client(args.node) as client:
        build_server(AgentTools(client, args.publish_at_once)).run()
    return 0


def build_server(tools: AgentTools) -> Any:
    """Return the MCP server of the tools; what they raise becomes the tool's error."""
    from mcp.server import MCPServer
    from mcp.server.mcpserver import Image
    from mcp.server.mcpserver.exceptions import ToolError
    server = MCPServer('crosspoint', instructions=INSTRUCTIONS)

    def run(find: Any, *arguments: Any) -> Any:
        try:
            return find(*arguments)
        except (ValueError, TimeoutError, RuntimeError, Rejected) as error:
            raise ToolError(str(error)) from error

    @server.tool()
    def cameras() -> list[dict[str, Any]]:
        """List the cameras, and which of them measure depth."""
        return run(tools.cameras)  # type: ignore[no-any-return]

    @server.tool(structured_output=False)
    def look(camera: str) -> list[Any]:
        """See the newest picture of a camera."""
        jpeg, width, height = run(tools.look, camera)
        return [Image(data=jpeg, format='jpeg'), f'{camera}, {width}x{height} px']

    @server.tool()
    def click(camera: str, x: float, y: float, name: str = '') -> str:
        """Click on a pixel of the picture that `look` returned; a name keeps other targets."""
        return run(tools.click, camera, x, y, name)  # type: ignore[no-any-return]

    @server.tool()
    def point_at(camera: str, instruction: str, name: str = '') -> str:
        """Click on what an instruction names, if the matcher understands instructions."""
        return run(tools.point_at, camera, instruction, name)  # type: ignore[no-any-return]

    @server.tool()
    def why_refused() -> str:
        """Explain the last click: each camera's answer or refusal, with value and limit."""
        return run(tools.explain)  # type: ignore[no-any-return]

    @server.tool()
    def targets() -> str:
        """Return the state of each target, and whether the robot may go on with it."""
        return run(tools.targets)  # type: ignore[no-any-return]

    @server.tool()
    def clear() -> str:
        """Clear all targets, so that the robot stops."""
        return run(tools.clear)  # type: ignore[no-any-return]
    return server
