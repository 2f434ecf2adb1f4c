"""ddbench: dataset distillation for remote-sensing scene classification, benchmarked."""

__version__ = "0.1.0"
