"""The processes of a run on several hosts: connecting, agreeing, watching each other, ending."""
