"""Measure the cost of the stack: ``make bench`` uses a throwaway engine and prints tables for docs/measurements.md."""
