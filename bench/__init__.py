"""Measurements: side by side with sd-scripts, and where a step's time goes. See docs/bench.md."""
