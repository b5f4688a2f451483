"""Stand-ins for the official Pulumi plugins `docker` and `command`, for machines that cannot download the plugins.

The stand-ins support what this project's program declares, with the same answers as the official plugins. They refuse
unknown inputs by name. `python -m local.stand_ins.docker ADDRESS` serves a stand-in to the Pulumi engine.
"""
