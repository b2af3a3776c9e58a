"""Networks whose features compare images and videos, as pure functions."""
