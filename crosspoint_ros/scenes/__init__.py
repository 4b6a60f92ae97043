"""The recordings that come with the package."""
from pathlib import Path

KITCHEN = Path(__file__).parent / 'kitchen'
