"""Files, locks, memory, the processes of a launch, provenance: what every other package may use."""
