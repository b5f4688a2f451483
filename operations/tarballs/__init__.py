"""Import tarballs of images into the registry."""
