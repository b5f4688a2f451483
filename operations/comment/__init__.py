"""One comment for each stack on a pull request."""
