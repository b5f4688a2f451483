"""Settings to file text: pure functions without Pulumi, clock or randomness; the same input gives the same bytes."""
