"""What a preview or an `up` checks on the Docker host before it changes anything."""
