"""`crosspoint web`: serves a page to click on, on this machine or for others."""
from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from crosspoint_ros.ros.client.client import NODE_NAME
from crosspoint_ros.web.auth import AccessControl, check_token, read_token, resolve_token
from crosspoint_ros.web.hub import Hub
from crosspoint_ros.web.ros_bridge import RosBridge
from crosspoint_ros.web.server import PageServer

HOST, PORT = '127.0.0.1', 8088
TOKEN_VARIABLE, VIEWER_VARIABLE = 'CROSSPOINT_WEB_TOKEN', 'CROSSPOINT_WEB_VIEWER_TOKEN'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--node', default=NODE_NAME,
                        help=f'name of the node (default: {NODE_NAME}; relative names are resolved '
                        'in the namespace given by --ros-args)')
    parser.add_argument('--host', default=HOST,
                        help=f'address to listen on (default: {HOST}, this machine only; any other '
                        'requires a token)')
    parser.add_argument('--port', type=_parse_port, default=PORT,
                        help=f'TCP port (default: {PORT}; 0: any free one)')
    parser.add_argument('--token', default='',
                        help='token that browsers must present, 16 characters or more (default: '
                        f'that of {TOKEN_VARIABLE}, or a random one at each start, if one is '
                        'required)')
    parser.add_argument('--token-file', type=Path, metavar='FILE',
                        help='file with the token: options are visible to all on the machine')
    parser.add_argument('--viewer-token', default='', metavar='TOKEN',
                        help='another token, for browsers that may look and not act (default: '
                        f'that of {VIEWER_VARIABLE}, or none)')
    parser.add_argument('--viewer-token-file', type=Path, metavar='FILE',
                        help="file with the viewers' token")
    parser.add_argument('--ros-args', nargs=argparse.REMAINDER, default=[],
                        help='arguments for ROS, to the end of the line: -r __ns:=/arm')


def _parse_port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'invalid port {text!r} (0-65535)')
    return int(text)


def main(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; return 1 if the server cannot start."""
    viewer_token = read_token(args.viewer_token, args.viewer_token_file, VIEWER_VARIABLE)
    token = resolve_token(args.host, read_token(args.token, args.token_file, TOKEN_VARIABLE),
                          is_required=bool(viewer_token))
    if viewer_token and check_token(viewer_token) == token:
        raise ValueError('the token and the viewer token must differ')
    try:
        asyncio.run(serve(args.node, args.host, args.port, token, args.ros_args, viewer_token))
    except OSError as error:
        reason = (error.strerror or str(error)).partition(' (')[0]
        problem = (f'cannot listen on {args.host} port {args.port}: {reason}; '
                   'try another --host or --port')
    except RuntimeError as error:  # invalid ROS arguments or node name
        problem = str(error)
    else:
        return 0
    print(f'crosspoint web: {problem}', file=sys.stderr)
    return 1


async def serve(node: str, host: str, port: int, token: str,
                ros_args: list[str] | None = None, viewer_token: str = '') -> None:
    """Listen, print the URL, and serve until a signal.

    Raises OSError if the address is taken or invalid, and whatever ends a background task.
    """
    sys.setswitchinterval(0.001)  # clicks and results pass between two threads
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address[:2], family=family)
    port = listener.getsockname()[1]
    bridge = RosBridge(node.rstrip('/'), loop, ros_args or [])
    hub = Hub(bridge)
    logging.getLogger('aiohttp.server').addFilter(is_server_fault)
    runner = web.AppRunner(PageServer(
        hub, AccessControl(token, port, viewer_token=viewer_token)).app, access_log=None)
    running = asyncio.ensure_future(hub.run())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        bridge.start()
        await runner.setup()
        await web.SockSite(runner, listener).start()
        print(format_url(host, port, token), flush=True)
        if viewer_token:
            print(f'for viewers: {format_url(host, port, viewer_token)}', flush=True)
        ends: tuple[asyncio.Future[Any], ...] = (stopping, running, bridge.failed)
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            future.result()
    finally:
        stopping.cancel()
        running.cancel()
        await runner.cleanup()
        bridge.close()


def is_server_fault(record: logging.LogRecord) -> bool:
    """Whether a record of aiohttp is not of an unreadable request, each with a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def format_url(host: str, port: int, token: str) -> str:
    """Return the URL to open, with the token in its fragment, which browsers never send."""
    name = socket.gethostname() if host in ('0.0.0.0', '::') else host
    name = f'[{name}]' if ':' in name else name
    return f'http://{name}:{port}/' + (f'#token={token}' if token else '')
