"""The public functions of `import ddbench`: they call what the commands call. docs/python.md shows them."""
