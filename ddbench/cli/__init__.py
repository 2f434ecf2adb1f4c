"""The commands. Each parses and prints; heavy imports stand inside its functions."""
