"""Functions of the methods that optimise pixels."""
