"""Sets of tensorflow-datasets: reading, writing."""
