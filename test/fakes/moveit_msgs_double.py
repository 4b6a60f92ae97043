"""A double of `moveit_msgs` and `trajectory_msgs`, which have no wheels: the fields in use."""
from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, Vector3Stamped


@dataclass
class JointTrajectoryPoint:
    """trajectory_msgs/JointTrajectoryPoint."""

    positions: list[float] = field(default_factory=list)


@dataclass
class GripperTranslation:
    """moveit_msgs/GripperTranslation."""

    direction: Vector3Stamped = field(default_factory=Vector3Stamped)
    desired_distance: float = 0.0
    min_distance: float = 0.0


@dataclass
class Grasp:
    """moveit_msgs/Grasp."""

    id: str = ''
    grasp_pose: PoseStamped = field(default_factory=PoseStamped)
    grasp_quality: float = float(np.nan)
    pre_grasp_posture: Any = field(default_factory=SimpleNamespace)
    grasp_posture: Any = field(default_factory=SimpleNamespace)
    pre_grasp_approach: Any = None
    post_grasp_retreat: Any = None


def install(monkeypatch: Any) -> None:
    """Let `import moveit_msgs.msg` and `trajectory_msgs.msg` find these."""
    for name, kinds in (('moveit_msgs', (Grasp, GripperTranslation)),
                        ('trajectory_msgs', (JointTrajectoryPoint,))):
        module = ModuleType(f'{name}.msg')
        vars(module).update({kind.__name__: kind for kind in kinds})
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, f'{name}.msg', module)
