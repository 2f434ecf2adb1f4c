"""The procedural dataset `scenes`."""
