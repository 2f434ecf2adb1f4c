"""What methods of any kind share."""
