"""Why an image is a hit: what its score reacts to in the pictures, and what the parts of the query do.

query, hit -> scores with pictures covered, or gradients -> maps
           -> scores with parts left out              -> parts
"""

from cir.explain.drawing import draw_explanation, heat_image
from cir.explain.explaining import explain, explain_many
from cir.explain.explanation import Explanation, HeatMap, Measured, Part
from cir.explain.maps import METHODS

__all__ = [
    "METHODS",
    "Explanation",
    "HeatMap",
    "Measured",
    "Part",
    "draw_explanation",
    "explain",
    "explain_many",
    "heat_image",
]
