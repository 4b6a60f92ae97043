"""The lifecycle node."""
import os

# Before NumPy is imported. OpenBLAS's threads spin while those of the matcher and of OpenCV run:
# with them a first click takes up to half as long again.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
