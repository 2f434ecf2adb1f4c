"""`python -m ddbench`, so that launchers such as `accelerate launch -m ddbench` work."""

from ddbench.cli.main import main

if __name__ == "__main__":
    main()
