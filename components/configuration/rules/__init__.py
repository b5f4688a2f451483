"""Rules that compare sections of the configuration."""

from __future__ import annotations

from components.configuration.rules import certificates, endpoints, logins, retention, storage

RULES = (*logins.RULES, *endpoints.RULES, *certificates.RULES, *storage.RULES, *retention.RULES)
"""All rules, in any order: a rule also works if other sections are broken, and the report sorts problems by key."""
