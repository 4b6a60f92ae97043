"""From a request to its answer, whether a node runs or a recording is gone through again."""
from __future__ import annotations

from crosspoint_ros.core.pipeline import Located, ground, locate
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.ros.loading import Matchers
from crosspoint_ros.ros.queries import Job
from crosspoint_ros.ros.views import ViewSource


def answer(job: Job, views: ViewSource, matchers: Matchers, limits: Limits) -> Located:
    """Gather the views, find the pixel of an instruction, and locate it; raises `Rejected`."""
    gathered = views.gather(job)
    pixel, meant = gathered.pixel, 1.0
    if pixel is None:
        named = ground(gathered.clicked, job.request.instruction, matchers.matcher)
        pixel, meant = named.pixel, named.confidence
    return locate(gathered.clicked, gathered.others, pixel, matchers.matcher, limits, job.enter,
                  matchers.refiner, meant)
