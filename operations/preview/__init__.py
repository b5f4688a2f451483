"""Preview of a stack in words: what changes for people, what clients notice, what needs attention."""
