"""Warm-up: find the images that files name, and pull each image through its mirror, so that the mirror has it."""
