"""Timings and accuracies side by side with named peers. Run as modules: `python -m benchmarks.reach --help`."""
