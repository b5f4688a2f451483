"""Rules that join sections of the configuration."""

from __future__ import annotations

from components.configuration.rules import certificates, endpoints, logins, storage

RULES = (*logins.RULES, *endpoints.RULES, *certificates.RULES, *storage.RULES)
"""In any order: a problem is found whatever other sections are broken, and the report sorts them by their keys."""
