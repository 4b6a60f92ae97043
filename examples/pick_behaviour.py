"""Behaviours of py_trees that click and check the target: `pip install py_trees`.

    guarded = py_trees.composites.Sequence('move', memory=False, children=[
        TargetHolds(client), YourMove()])  # at each tick: the move is interrupted when it fails
    root = py_trees.composites.Sequence('pick', memory=True, children=[
        PointAt(client, 'front', (500, 280)), guarded])

Ticking spins the client, so nothing else may spin it.
"""
import py_trees
from crosspoint_ros.action import Correspond
from py_trees.common import Access, Status

import crosspoint_ros as cp

SPIN_S = 0.01


class PointAt(py_trees.behaviour.Behaviour):
    """Clicks; writes the `QueryResult` to the blackboard's /target. Cancelled when interrupted."""

    def __init__(self, client: cp.Client, camera: str, pixel: tuple[float, float]) -> None:
        super().__init__(f'point at {camera}')
        self.client = client
        self.goal = Correspond.Goal(camera=camera, x=float(pixel[0]), y=float(pixel[1]))
        self.blackboard = self.attach_blackboard_client()
        self.blackboard.register_key('/target', Access.WRITE)

    def initialise(self) -> None:
        self.click = self.client.send(self.goal)

    def update(self) -> Status:
        self.client.spin_for(SPIN_S)
        if not self.click.done():
            return Status.RUNNING
        result = self.click.result()
        self.feedback_message = result.status.message
        self.blackboard.set('/target', result)
        return Status.SUCCESS if result.has_target else Status.FAILURE

    def terminate(self, new_status: Status) -> None:
        if new_status == Status.INVALID and self.status == Status.RUNNING:
            self.click.cancel()


class TargetHolds(py_trees.behaviour.Behaviour):
    """Fails as soon as the target of /target is not the node's valid one any more."""

    def __init__(self, client: cp.Client) -> None:
        super().__init__('target holds')
        self.client, self.states = client, []
        client.subscribe_target_state(self.states.append)
        self.blackboard = self.attach_blackboard_client()
        self.blackboard.register_key('/target', Access.READ)

    def update(self) -> Status:
        self.client.spin_for(SPIN_S)
        query_id = self.blackboard.get('/target').query_id
        if not self.client.has_node():
            self.feedback_message = 'the node is gone'
            return Status.FAILURE
        states = [state for state in self.states if state.query_id == query_id]
        if not states:  # the latest is still of an earlier target
            return Status.RUNNING
        self.feedback_message = self.states[-1].message
        holds = self.states[-1] is states[-1] and states[-1].valid
        return Status.SUCCESS if holds else Status.FAILURE
