"""Users of a stack: list, add, rotate and retire users, hand over logins."""
