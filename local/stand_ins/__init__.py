"""Stand-ins for the official Pulumi plugins `docker` and `command`, for machines that cannot download those.

They cover what this project's program declares, give the same answers there as the official plugins, and refuse by
name whatever they do not know. `python -m local.stand_ins.docker ADDRESS` serves one to the Pulumi engine.
"""
