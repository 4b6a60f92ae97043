"""The node's limits, read and set from the page, and the findings of `crosspoint doctor`."""
from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters

from crosspoint_ros.ros.client.results import Json
from crosspoint_ros.ros.config import LIMITS_PREFIX, Spec, list_limit_specs
from crosspoint_ros.web.ros_bridge import RosBridge

# Those whose effect on an answer can be predicted from what it says.
NAMES = ('min_confidence', 'sure_confidence', 'max_epipolar_px', 'max_depth_gap_m',
         'max_target_sigma_m')
SLIDER_SPAN = 5.0  # of a slider without an upper limit of 1, in defaults
STEPS = 100
DOCTOR_TIMEOUT_S = 60.0


def list_slider_specs() -> list[Spec]:
    """Return the parameters of NAMES."""
    specs = {spec.name: spec for spec in list_limit_specs()}
    return [specs[LIMITS_PREFIX + name] for name in NAMES]


class SharedTask:
    """Runs some work once at a time; all who ask meanwhile share what it returns."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> Any:
        """Return what the work returns, and raise what it raises."""
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._work())
        return await asyncio.shield(self._task)  # one who leaves must not end it for the others

    def restart(self) -> None:
        """Let those who ask from now on wait for new work."""
        self._task = None


async def read_limits(bridge: RosBridge) -> list[Json]:
    """Return value, range and meaning of each limit. Raises NodeUnavailableError."""
    specs = list_slider_specs()
    reply = await bridge.call('get_parameters', GetParameters.Request(
        names=[spec.name for spec in specs]), is_act=False)
    return [_describe(spec, float(value.double_value))
            for spec, value in zip(specs, reply.values, strict=False)]


def _describe(spec: Spec, value: float) -> Json:
    assert spec.low is not None
    assert spec.high is not None
    high = max(min(spec.high, SLIDER_SPAN * spec.default), value)
    return {'name': spec.name.removeprefix(LIMITS_PREFIX), 'value': value, 'default': spec.default,
            'low': spec.low, 'high': high, 'step': high / STEPS, 'meaning': spec.meaning}


async def set_limit(bridge: RosBridge, name: str, value: float) -> Json:
    """Set one limit; return `ok` and a message. Raises NodeUnavailableError."""
    if name not in NAMES:
        return {'ok': False, 'message': f'unknown limit {name}; known: {", ".join(NAMES)}'}
    parameter = Parameter(name=LIMITS_PREFIX + name, value=ParameterValue(
        type=ParameterType.PARAMETER_DOUBLE, double_value=value))
    reply = await bridge.call('set_parameters', SetParameters.Request(parameters=[parameter]))
    result = reply.results[0]
    return {'ok': bool(result.successful), 'message': result.reason or
            f'{name} is {value:g} now, from the next click on'}


async def run_doctor(node: str) -> Json:
    """Run `crosspoint doctor` as a process; return the findings, or why there are none."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, '-m', 'crosspoint_ros.cli', 'doctor', '--json', '--node', node,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    try:
        output, errors = await asyncio.wait_for(process.communicate(), DOCTOR_TIMEOUT_S)
        report: dict[str, Any] = json.loads(output)
    except asyncio.TimeoutError:
        return {'problem': f'the check has not ended within {DOCTOR_TIMEOUT_S:g} s'}
    except ValueError:
        return {'problem': errors.decode(errors='replace').strip()[-500:] or 'no report'}
    finally:
        if process.returncode is None:
            process.kill()
    return {'problem': '', 'healthy': report['healthy'], 'findings': report['findings']}
