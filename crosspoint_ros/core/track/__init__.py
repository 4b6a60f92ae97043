"""Follows a target after the click, without ROS: `tracker.Tracker`."""
