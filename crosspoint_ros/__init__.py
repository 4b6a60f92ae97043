"""A click in any camera becomes the same point in every other camera, and a 3D grasp target."""
from pkgutil import extend_path

# Lets the source tree find msg/, srv/ and action/ of an installed build.
__path__ = extend_path(__path__, __name__)
