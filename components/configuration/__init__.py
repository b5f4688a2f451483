"""What an operator can choose: read, checked, and named. Nothing here imports Pulumi."""
