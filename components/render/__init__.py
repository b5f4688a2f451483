"""Render settings to file text: pure functions without Pulumi, clock or randomness; same input, same bytes."""
