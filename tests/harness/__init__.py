"""Code that tests and benchmarks share: stacks, clients, images, certificates, configurations.

This package contains no tests and no fixtures. It imports nothing from a test tier or a ``conftest.py``. The benchmarks
import only from this package.
"""
