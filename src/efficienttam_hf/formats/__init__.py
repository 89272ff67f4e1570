"""Annotations in the formats of other tools: written from results, and read as prompts.

`annotations.py` has what all formats share, and every format has one file. `registry.py` lists the formats by name and
finds out which format a file has. `result_files.py` reads the results of `track` and `segment`, `prompting.py` makes
prompts of annotations, and `detections.py` converts the output of a tracker to `supervision.Detections`.
"""
