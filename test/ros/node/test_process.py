"""Nodes in processes of their own: they end with us, in order, and say why they died."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crosspoint_ros.ros.process import NodeProcess, ProcessExited

# Stand-ins for nodes: processes whose end is known.
STUBS = {
    'patient': """
import time
def main():
    try:
        print('up', flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        return 0
""",
    'stubborn': """
import signal, time
def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print('up', flush=True)
    time.sleep(60)
""",
    'broken': """
def main():
    print('no camera at all')
    return 3
""",
}


@pytest.fixture
def start(tmp_path, monkeypatch):
    for name, code in STUBS.items():
        (tmp_path / f'{name}.py').write_text(code)
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    started = []

    def start_stub(name, until='up'):
        log = tmp_path / f'{name}.log'
        process = NodeProcess(name, ['-r', '__ns:=/x'], log, environment)
        started.append(process)
        wait_for(lambda: until in log.read_text())
        return process

    yield start_stub
    for process in started:
        process.stop()


def wait_for(condition, seconds=10.0):
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, 'waited for too long'
        time.sleep(0.02)


def is_run_rig(pid):
    try:
        with open(f'/proc/{pid}/stat') as stat:
            return stat.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_a_node_is_ended_as_by_ctrl_c(start):
    process = start('patient')
    process.check()
    assert process.stop() == 0


def test_a_node_that_ignores_ctrl_c_is_ended_all_the_same(start, monkeypatch):
    monkeypatch.setattr('crosspoint_ros.ros.process.STOP_S', 0.2)
    process = start('stubborn')
    assert process.stop() == -signal.SIGTERM
    assert not is_run_rig(process.pid)


def test_a_node_that_exited_is_reported_with_its_last_output(start):
    process = start('broken', until='no camera')
    with pytest.raises(ProcessExited, match=r'(?s)broken exited with code 3.*no camera at all'):
        wait_for(lambda: process.check() or False)


def test_a_node_ends_with_us_even_if_we_are_killed(tmp_path):
    (tmp_path / 'patient.py').write_text(STUBS['patient'])
    code = ('import os, sys, time, pathlib\n'
            'from crosspoint_ros.ros.process import NodeProcess\n'
            f'node = NodeProcess("patient", [], pathlib.Path({str(tmp_path / "log")!r}),'
            ' dict(os.environ))\nprint(node.pid, flush=True)\ntime.sleep(60)\n')
    root = os.fspath(Path(__file__).resolve().parents[3])
    parent = subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, cwd=root,
        env={**os.environ, 'PYTHONPATH': f'{root}{os.pathsep}{tmp_path}'})
    child = int(parent.stdout.readline())
    assert is_run_rig(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not is_run_rig(child))
