"""The commands: each parses and prints, and imports what is heavy inside its function."""
