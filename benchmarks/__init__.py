"""What the stack costs: ``make bench`` measures it on a throwaway engine and prints tables for docs/measurements.md."""
