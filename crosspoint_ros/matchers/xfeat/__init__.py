"""XFeat descriptors and two-view geometry, on the CPU with OpenCV and NumPy alone."""
from crosspoint_ros.matchers.xfeat.matcher import XFeatMatcher

__all__ = ['XFeatMatcher']
