"""What the commands, the demo and the scripts share: loading a model, planning, tracking, writing results."""
