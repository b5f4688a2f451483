"""Write the files that make clients use the mirrors: `python -m operations clients`."""
