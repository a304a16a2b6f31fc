"""Small models of many kinds, most of them of the kinds that auto_LiRPA's own tests bound.

``MODELS`` holds them by name; each is always the same, with the same inputs.
"""

from __future__ import annotations

from models import images, sequences, vectors
from models.base import MODELS, Model

__all__ = ["MODELS", "Model", "images", "sequences", "vectors"]
