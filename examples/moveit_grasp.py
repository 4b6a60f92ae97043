"""Fill `moveit_msgs/Grasp` from an answer, for MoveIt's pick pipelines (needs moveit_msgs)."""
from crosspoint_ros.msg import QueryResult
from geometry_msgs.msg import PoseStamped
from moveit_msgs.msg import Grasp, GripperTranslation
from trajectory_msgs.msg import JointTrajectoryPoint


def fill_grasp(result: QueryResult, gripper_joints: list[str], open_m: list[float],
               closed_m: list[float], approach_m: float = 0.1, lift_m: float = 0.1) -> Grasp:
    """Return the grasp at the target: +z of its pose is the approach, the jaws close along x.

    open_m, closed_m: positions of the joints. Raises ValueError without a target.
    """
    if not result.has_target:
        raise ValueError(f'no target: {result.status.message}')
    target = result.target
    grasp = Grasp(id=result.query_id, grasp_quality=float(target.confidence),
                  grasp_pose=PoseStamped(header=target.header, pose=target.pose.pose))
    for posture, positions in ((grasp.pre_grasp_posture, open_m), (grasp.grasp_posture, closed_m)):
        posture.joint_names = gripper_joints
        posture.points = [JointTrajectoryPoint(positions=positions)]
    grasp.pre_grasp_approach = _translate(target.header.frame_id, _approach(target), approach_m)
    grasp.post_grasp_retreat = _translate(target.header.frame_id, (0.0, 0.0, 1.0), lift_m)
    return grasp


def _approach(target) -> tuple[float, float, float]:
    """+z of the pose's quaternion."""
    q = target.pose.pose.orientation
    return (2 * (q.x * q.z + q.w * q.y), 2 * (q.y * q.z - q.w * q.x),
            1 - 2 * (q.x * q.x + q.y * q.y))


def _translate(frame: str, direction: tuple[float, float, float], by_m: float
               ) -> GripperTranslation:
    motion = GripperTranslation(desired_distance=by_m, min_distance=by_m / 2)
    motion.direction.header.frame_id = frame
    (motion.direction.vector.x, motion.direction.vector.y,
     motion.direction.vector.z) = map(float, direction)
    return motion
