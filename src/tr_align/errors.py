"""The one exception for what the user can put right."""

from __future__ import annotations


class UserError(Exception):
    """Something in the user's settings, data or surroundings is wrong; the message says what, where and the way out."""
