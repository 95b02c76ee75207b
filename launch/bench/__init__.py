"""Measure speed, memory and precision; `python launch/bench WHAT ...`, see `__main__.py`."""
