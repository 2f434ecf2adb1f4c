"""The commands: each parses and prints, and imports heavy modules inside its function."""
