"""What the methods that optimise pixels share."""
