"""Code shared by the commands, the demo and the scripts: loading a model, planning, tracking, writing results."""
