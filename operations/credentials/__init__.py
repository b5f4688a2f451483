"""Credentials: who may log in, new users, new passwords, retirement."""
