"""What may vary, between which bounds, and where the published value came from."""

from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.errors import UserError, nearest
from search_spaces.fields import HyperParameter, Space, hp, hyper_parameters, space_of

__all__ = [
    "Choice", "Domain", "Float", "HyperParameter", "Int", "Space", "UserError",
    "hp", "hyper_parameters", "nearest", "space_of",
]  # fmt: skip
