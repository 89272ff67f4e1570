"""Pseudo-labels: masks of photographs and tracks in clips that a promptable teacher draws, without any annotation.

`teachers` convert a prompt on a picture to masks. A teacher is a pair of ONNX files, a mask generation model of
Transformers, or an EfficientTAM. `proposals` finds the objects of one picture with a teacher. `tracks` follows them
through a clip: `flow` carries a mask to the next frame, where the teacher draws it again, and only masks on which the
forward and the backward pass agree are kept. `labelling` does this for a folder and writes the files that `finetune`
reads, with sheets to look at (`writing`).
"""
