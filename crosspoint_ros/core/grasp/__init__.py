"""From a point to a grasp: the approach, and the thing that was clicked."""
