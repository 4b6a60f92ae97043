"""`crosspoint web`: a page to click on, for a browser on this machine or beside the robot."""
from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import sys
from typing import Any

from aiohttp import web

from crosspoint_ros.ros.client.client import NODE_NAME
from crosspoint_ros.web.auth import AccessControl, resolve_token
from crosspoint_ros.web.hub import Hub
from crosspoint_ros.web.ros_bridge import RosBridge
from crosspoint_ros.web.server import PageServer

HOST, PORT = '127.0.0.1', 8088


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--node', default=NODE_NAME, help=f'name of the node (default: {NODE_NAME}; '
                        'without a leading /: in the namespace of this one)')
    parser.add_argument('--host', default=HOST, help='address to listen on (default: '
                        f'{HOST}, this machine alone); any other asks for a token')
    parser.add_argument('--port', type=_parse_port, default=PORT,
                        help=f'TCP port (default: {PORT}; 0: any that is free)')
    parser.add_argument('--token', default='', help='what a browser must know, 16 characters or '
                        'more (default: made anew for each start where one is needed)')
    parser.add_argument('--ros-args', nargs=argparse.REMAINDER, default=[],
                        help='what follows is for ROS: -r __ns:=/arm')


def _parse_port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'{text!r} is no port: 0 to 65535')
    return int(text)


def main(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; 1 if it cannot begin."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format='%(name)s: %(message)s')
    token = resolve_token(args.host, args.token)
    try:
        asyncio.run(serve(args.node, args.host, args.port, token, args.ros_args))
    except OSError as error:
        print(f'crosspoint web: cannot listen on {args.host} port {args.port}: '
              f'{error.strerror or error} (another --port?)', file=sys.stderr)
        return 1
    except RuntimeError as error:  # rcl could not read the arguments, or the name of the node
        print(f'crosspoint web: {error}', file=sys.stderr)
        return 1
    return 0


async def serve(node: str, host: str, port: int, token: str,
                ros_args: list[str] | None = None) -> None:
    """Listen, print the address, and serve until a signal; raise OSError for a taken port.

    A bug in what goes on behind the page is raised, too.
    """
    sys.setswitchinterval(0.001)  # two threads hand every click and answer to each other
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    listening = _bind_socket(host, port)
    port = listening.getsockname()[1]
    link = RosBridge(node.rstrip('/'), loop, ros_args or [])
    hub = Hub(link)
    runner = web.AppRunner(PageServer(hub, AccessControl(token, port)).app, access_log=None)
    ticking = asyncio.ensure_future(hub.run())
    ending = asyncio.ensure_future(ended.wait())
    try:
        link.start()
        await runner.setup()
        await web.SockSite(runner, listening).start()
        print(format_url(host, port, token), flush=True)
        ends: tuple[asyncio.Future[Any], ...] = (ending, ticking, link.failed)
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()  # a bug ends the server: half of it would pass for the whole
    finally:
        ending.cancel()
        ticking.cancel()
        await runner.cleanup()
        link.close()


def _bind_socket(host: str, port: int) -> socket.socket:
    family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                   flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def format_url(host: str, port: int, token: str) -> str:
    """The address to open. The token stands behind #: browsers never send that on."""
    named = socket.gethostname() if host in ('0.0.0.0', '::') else host
    named = f'[{named}]' if ':' in named else named
    return f'http://{named}:{port}/' + (f'#token={token}' if token else '')
