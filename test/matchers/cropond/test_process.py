"""The node with a model in it, as a process of its own: it ends in order while that loads."""
from __future__ import annotations

import os
import signal

import pytest
import tiny_qwen

from crosspoint_ros.ros.process import NodeProcess


@pytest.mark.parametrize('step', [0, 1, 2], ids=['import', 'weights', 'self-test'])
def test_a_signal_while_a_model_loads_ends_the_process_in_order(tmp_path, step):
    folder, log = tiny_qwen.build(tmp_path / 'model'), tmp_path / 'crosspoint_node.log'
    given = ['cameras:=[front, side]', 'base_frame:=base_link', 'matcher:=cropond',
             f'cropond.model:={folder}', 'cropond.device:=cpu']
    # What is on its way when the signal comes: the import of torch, the weights, the self-test.
    heard = ['loading the matcher', 'files onto', 'loaded onto'][step]
    arguments = [w for g in given for w in ('-p', g)]
    with NodeProcess('crosspoint_ros.ros.node.lifecycle_node', arguments, log,
                     os.environ) as process:
        while heard not in log.read_text() and 'stays inactive' not in log.read_text():
            process.check()
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60.0) == 0, log.read_text()
    assert 'terminate called' not in log.read_text()
