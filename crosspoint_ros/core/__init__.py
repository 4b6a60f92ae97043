"""The geometry and the data path, on NumPy and OpenCV alone: no ROS, no torch."""
