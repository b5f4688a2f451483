"""What several tiers of tests and the benchmarks share: stacks, clients, images, certificates, configurations.

No test and no fixture is here, and nothing here imports from a tier or from a ``conftest.py``. The benchmarks import
from this package alone.
"""
