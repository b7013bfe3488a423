"""Examines the machine and its hosts before anything is made: `python -m layer1 doctor`."""
