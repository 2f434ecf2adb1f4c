"""Plan, distil, evaluate and measure one run."""
