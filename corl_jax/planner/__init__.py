"""The planner behind ``corl plan``: does a config fit a slice of chips, and what bounds its speed?

Nobody needs this room to train: no run imports it. It builds the training step of a config over
abstract arrays (``programs``), compiles the step's programs for the slice, TPUs or GPUs that are not
here (``chips``, ``roofline``), and reports memory, FLOPs, bytes and seconds per phase, with advice
where the step does not fit.
"""
