"""Functions that methods of any kind use."""
