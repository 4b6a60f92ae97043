"""Whether MuJoCo is there and renders, and what to do where it does not."""
from __future__ import annotations

import os


def require_mujoco() -> None:
    """Import MuJoCo and render once, by EGL unless MUJOCO_GL says otherwise.

    Raises ModuleNotFoundError without MuJoCo, OSError with the cause where it cannot render.
    """
    os.environ.setdefault('MUJOCO_GL', 'egl')  # without a display, on a CPU as well
    backend = os.environ['MUJOCO_GL']
    try:
        import mujoco
        model = mujoco.MjModel.from_xml_string('<mujoco/>')
        mujoco.Renderer(model, 8, 8).close()
    except ModuleNotFoundError:
        raise
    # What a missing library, driver or display raises depends on which of them it is.
    except Exception as why:
        cause = str(why).partition('. ')[0] or type(why).__name__
        raise OSError(f'MuJoCo cannot render with MUJOCO_GL={backend} ({cause}): install libegl1 '
                      'and libgl1-mesa-dri, or with a display set MUJOCO_GL=glfw') from why
